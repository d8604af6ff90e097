<?php
// Owns: the session handler, and what a request and its response say to Linchpin.
// Invariant: whatever a response says of the session is saved in that response's own head, or Linchpin has it already.
// Must not know: how files are kept, how copies are sealed.
declare(strict_types=1);

namespace Linchpin\Session;

final class SessionCopies implements \SessionHandlerInterface, \SessionIdInterface, \SessionUpdateTimestampHandlerInterface
{
    private const WELL_KNOWN = '/.well-known/linchpin/session';

    /** No copy is longer than this when it comes by PUT, in bytes. */
    private const LONGEST_PUT = 1 << 20;

    private readonly Seal $seal;
    private readonly Folder $folder;
    private readonly ?Version $field;

    /** @var resource|null the lock of the session, while it is open */
    private $lock = null;
    private ?string $id = null;
    /** The session's text as it is in its file, or null if it has none. */
    private ?string $data = null;
    private bool $wasOpened = false;
    /** What this request wanted to write when a hand-over had overtaken it. */
    private ?string $refused = null;
    /** @var array{int, int}|null the version that this response's head has */
    private ?array $reported = null;

    /** @param string|list<string> $secret */
    private function __construct(#[\SensitiveParameter] string|array $secret, string $folder, private readonly int $max)
    {
        $this->seal = new Seal($secret);
        $this->folder = new Folder($folder);
        $this->field = Version::parse($_SERVER['HTTP_LINCHPIN_SESSION'] ?? null);
    }

    /**
     * Takes over PHP's sessions, and answers Linchpin. Call it before anything else: it ends the script if the request is Linchpin's own,
     * or if this server's session is older than what Linchpin knows.
     *
     * @param string|list<string> $secret at least 32 bytes, the same on all servers; of several the first seals, all of them open
     * @param ?string $folder where this server keeps its sessions; default: a folder in session.save_path
     * @param int $max bytes of a sealed copy; a longer session is not saved
     */
    public static function register(#[\SensitiveParameter] string|array $secret, ?string $folder = null, int $max = 32768): self
    {
        if (session_status() === PHP_SESSION_ACTIVE) {
            throw new \LogicException('register session copies before the session starts, and turn session.auto_start off');
        }
        $copies = new self($secret, $folder ?? self::defaultFolder(), $max);
        if (explode('?', $_SERVER['REQUEST_URI'] ?? '')[0] === self::WELL_KNOWN) {
            http_response_code($copies->exchange());
            exit;
        }
        if ($copies->field && !$copies->admit($copies->field)) {
            $copies->folder->count('wanted');
            http_response_code(409);
            header('Linchpin-Session-Want: ?1');
            header('Content-Length: 0');
            exit;
        }
        // Without it PHP would take any id that a client makes up, and one that is over.
        ini_set('session.use_strict_mode', '1');
        if ((int) ini_get('session.gc_probability') === 0) {
            // Debian cleans its own folder instead.
            ini_set('session.gc_probability', '1');
        }
        session_set_save_handler($copies, true);
        header_register_callback($copies->beforeHead(...));
        return $copies;
    }

    /** @return array<string, int> what has happened on this server since its folder was made */
    public function stats(): array
    {
        return $this->folder->counts();
    }

    public function open(string $path, string $name): bool
    {
        return true;
    }

    public function create_sid(): string
    {
        return session_create_id();
    }

    /** Says whether there is a session with this id. Locks it until it is closed. */
    public function validateId(string $id): bool
    {
        $this->load($id);
        if ($this->data === null) {
            $this->unlock();
        }
        return $this->data !== null;
    }

    public function read(string $id): string
    {
        if (!$this->lock || $this->id !== $id) {
            $this->load($id);
        }
        return $this->data ?? '';
    }

    public function write(string $id, string $data): bool
    {
        if ($this->isOverdue()) {
            $this->refused = $data;
            $this->folder->count('refused');
            return true;
        }
        if ($data === '' && $this->data === null) {
            return true;
        }
        if (headers_sent() && $data !== $this->data && $this->field) {
            $this->folder->count('late');
        }
        $this->folder->writeSession($id, $data);
        $this->data = $data;
        return true;
    }

    public function updateTimestamp(string $id, string $data): bool
    {
        $this->folder->touchSession($id);
        return true;
    }

    public function destroy(string $id): bool
    {
        if ($this->isOverdue()) {
            $this->refused = '';
            return true;
        }
        $this->folder->removeSession($id);
        $this->folder->removeLock($id);
        if ($this->field) {
            $this->folder->change($this->field->ref, fn (?Entry $entry) => $entry?->id === $id ? $entry->ended() : $entry);
        }
        $this->data = null;
        return true;
    }

    public function close(): bool
    {
        if ($this->field && !headers_sent()) {
            $this->report($this->field);
        }
        $this->unlock();
        return true;
    }

    public function gc(int $max_lifetime): int
    {
        return $this->folder->collect($max_lifetime);
    }

    /** Locks and reads a session. A copy that waits for it becomes the session. */
    private function load(string $id): void
    {
        $this->unlock();
        $this->lock = $this->folder->lockSession($id);
        $this->wasOpened = true;
        $this->id = $id;
        if ($this->field) {
            $this->folder->change($this->field->ref, fn (?Entry $entry) => $entry?->given ? $this->useGiven($entry, $id) : $entry);
        }
        $this->data = $this->folder->session($id, self::lifetime());
    }

    /** Makes a copy the session that it is, if the client has its cookie. Otherwise it waits on. */
    private function useGiven(Entry $entry, string $id): Entry
    {
        $opened = $this->seal->open($entry->given);
        if ($entry->previous !== null && $entry->previous !== $opened?->id) {
            // Another id has taken its place, on another server.
            $this->folder->removeSession($entry->previous);
        }
        if ($opened?->id !== $id) {
            $this->folder->count('ignored');
            return $entry;
        }
        if ($opened->hasExpired(time())) {
            $this->folder->removeSession($id);
            return new Entry($entry->term, $entry->seq, $id, hasEnded: true);
        }
        $this->folder->writeSession($id, $opened->data);
        return new Entry($entry->term, $entry->seq, $id, Entry::digest($opened->data), time());
    }

    /** Says whether this request may run: forgets what must not be used. */
    private function admit(Version $field): bool
    {
        $mayRun = true;
        $this->folder->change($field->ref, function (?Entry $entry) use ($field, &$mayRun): ?Entry {
            if ($field->seq === null) {
                return $entry && $entry->term < $field->term - 1 ? $this->forget($entry) : $entry;
            }
            if ($field->isDropped) {
                return $entry?->isOlderThan($field->term, $field->seq) ? $this->forget($entry, $field) : $entry;
            }
            // A file that is too old is as good as none.
            $isGone = $entry?->id !== null && !$entry->hasEnded && $this->folder->session($entry->id, self::lifetime()) === null;
            $mayRun = $entry && !$isGone && !$entry->isOlderThan($field->term, $field->seq);
            return $entry;
        });
        return $mayRun;
    }

    /** Removes a session; leaves a drop if there is one. */
    private function forget(Entry $entry, ?Version $drop = null): ?Entry
    {
        foreach ([$entry->id, $entry->previous] as $id) {
            if ($id !== null) {
                $this->folder->removeSession($id);
            }
        }
        // Requests under way, from before the drop, are to find it.
        return $drop ? new Entry($drop->term, $drop->seq ?? 0) : null;
    }

    /**
     * Says whether the session was given to this server anew, or dropped, while this request ran. It must not undo what clients have
     * been told since.
     */
    private function isOverdue(): bool
    {
        return $this->field && $this->folder->entry($this->field->ref)?->term > $this->field->term;
    }

    /** Runs before the head of the response is sent, which may be long before the request ends. */
    private function beforeHead(): void
    {
        if (!$this->field) {
            return;
        }
        if (session_status() === PHP_SESSION_ACTIVE && $this->lock && $this->id === session_id()) {
            // PHP will write the session only later. It encodes nothing as false.
            $data = $_SESSION ? session_encode() : '';
            if ($data !== false && $data !== $this->read($this->id)) {
                $this->write($this->id, $data);
            }
        } elseif ($this->wasOpened) {
            // It was reported when it was closed.
            return;
        }
        $this->report($this->field);
    }

    /** Adds to the response's head what Linchpin doesn't know yet. */
    private function report(Version $field): void
    {
        $this->folder->change($field->ref, function (?Entry $entry) use ($field): ?Entry {
            $seq = max($entry?->seq ?? 0, $field->seq ?? 0) + 1;
            if ($entry?->term > $field->term) {
                // Linchpin refuses what has this term, and with it the response: it had no effect here.
                if ($this->refused !== null) {
                    $this->add($field->term, $seq, $this->seal->seal($this->id, $this->refused, time(), self::lifetime()));
                }
                return $entry;
            }
            $isKnown = $entry && ($this->reported === [$entry->term, $entry->seq]
                || ($field->seq !== null && !$field->isOlderThan($entry->term, $entry->seq)));
            $hasOwn = $this->data !== null && ($this->data !== '' || $entry?->id === $this->id);
            if ($hasOwn ? $isKnown && $this->isCurrent($entry) : !$entry || ($isKnown && !$entry->hasEnded)) {
                return $entry;
            }
            // A request without the session's cookie, or one that doesn't use it, leaves the session as it is.
            $id = $hasOwn ? $this->id : ($entry->hasEnded ? null : $entry->id);
            $data = $hasOwn ? $this->data : ($id !== null ? $this->folder->session($id, self::lifetime()) : null);
            if ($id !== null && $data === null) {
                return $entry;
            }
            $given = $id === null && !$entry->hasEnded ? $entry->given : '';
            $this->add($field->term, $seq, $data !== null ? $this->seal->seal($id, $data, time(), self::lifetime()) : $given);
            $this->reported = [$field->term, $seq];
            return $data !== null
                ? new Entry($field->term, $seq, $id, Entry::digest($data), time())
                : new Entry($field->term, $seq, previous: $given ? $entry->previous : null, given: $given);
        });
    }

    /** Says whether an entry's version is the session as it is, and was saved not too long ago. */
    private function isCurrent(Entry $entry): bool
    {
        return $entry->id === $this->id && !$entry->hasEnded && $entry->digest === Entry::digest($this->data)
            && time() - $entry->savedAt <= self::lifetime() / 10;
    }

    /** Adds a save to the head, or if there is nothing to save, a drop. */
    private function add(int $term, int $seq, string $sealed): void
    {
        header_remove('Linchpin-Session-Save');
        header_remove('Linchpin-Session-Drop');
        $length = strlen($sealed);
        if ($length > 0 && $length <= $this->max) {
            $this->folder->count('saved');
            header('Linchpin-Session-Save: :' . base64_encode($sealed) . ":;term=$term;seq=$seq;ttl=" . self::lifetime());
            return;
        }
        if ($length > 0) {
            // An older copy would be worse than none. The session itself stays here.
            $this->folder->count('tooLong');
            error_log("a session of $length bytes is longer than max ($this->max bytes): it is not saved, and is lost if this server dies");
        }
        $this->folder->count('dropped');
        header("Linchpin-Session-Drop: ?1;term=$term;seq=$seq");
    }

    /** Answers Linchpin's PUT, which gives a copy, or its DELETE, which drops one; returns the status. */
    private function exchange(): int
    {
        $method = $_SERVER['REQUEST_METHOD'] ?? '';
        if ($method !== 'PUT' && $method !== 'DELETE') {
            header('Allow: PUT, DELETE');
            return 405;
        }
        if ($this->field?->seq === null) {
            return 400;
        }
        $given = '';
        if ($method === 'PUT') {
            $given = (string) file_get_contents('php://input', length: self::LONGEST_PUT + 1);
            if (strlen($given) > self::LONGEST_PUT) {
                return 413;
            }
            if (!$this->seal->open($given)) {
                $this->folder->count('forged');
                return 422;
            }
        }
        $newer = $this->take($this->field, $given);
        $this->folder->count($newer ? 'outdated' : 'taken');
        if ($newer) {
            header("Linchpin-Session: ref=\"{$this->field->ref}\";term=$newer->term;seq=$newer->seq");
        }
        return $newer ? 409 : 204;
    }

    /** Keeps a copy until a request of its session comes, or with `$given` empty a drop; returns the entry if that is newer. */
    private function take(Version $version, string $given): ?Entry
    {
        $newer = null;
        $this->folder->change($version->ref, function (?Entry $entry) use ($version, $given, &$newer): ?Entry {
            $isSame = $entry && $entry->term === $version->term && $entry->seq === $version->seq;
            $isDrop = $entry && $entry->id === null && $entry->given === '';
            if ($entry && ($version->isOlderThan($entry->term, $entry->seq) || ($isSame && $isDrop && $given !== ''))) {
                return $newer = $entry;
            }
            if ($given === '') {
                return $this->forget($entry ?? new Entry(0, 0), $version);
            }
            // The very version that is here may have changed since.
            $isHere = $isSame && $entry->id !== null && $this->folder->session($entry->id, self::lifetime()) !== null;
            return $isHere ? $entry : new Entry($version->term, $version->seq, previous: $entry?->id ?? $entry?->previous, given: $given);
        });
        return $newer;
    }

    private function unlock(): void
    {
        if ($this->lock) {
            fclose($this->lock);
        }
        $this->lock = null;
    }

    /** Returns how long a session lives after its last request, in seconds. */
    private static function lifetime(): int
    {
        return max(1, (int) ini_get('session.gc_maxlifetime'));
    }

    private static function defaultFolder(): string
    {
        // The path may begin with "depth;mode;".
        $parts = explode(';', (string) ini_get('session.save_path'));
        return (end($parts) ?: sys_get_temp_dir()) . '/linchpin-sessions';
    }
}
