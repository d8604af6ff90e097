<?php
// Owns: the files of this server's sessions and refs, and their locks.
// Invariant: a file is replaced whole; a session's text changes only under its lock, an entry only under its ref's.
// Must not know: PHP's session module, HTTP, sealing.
declare(strict_types=1);

namespace Linchpin\Session;

final class Folder
{
    /** Refs share locks, which are held for an instant only. */
    private const REF_LOCKS = 64;

    public function __construct(private readonly string $path)
    {
        if (!is_dir($path) && !@mkdir($path, 0700, true) && !is_dir($path)) {
            throw new \RuntimeException("cannot create the folder $path for sessions: check the owner of the folder above, or name another one");
        }
    }

    /** Returns the text of a session that a request has used in the last `$lifetime` seconds, or null. */
    public function session(string $id, int $lifetime): ?string
    {
        $file = $this->sessionFile($id);
        clearstatcache(true, $file);
        $time = @filemtime($file);
        $text = $time !== false && $time + $lifetime >= time() ? @file_get_contents($file) : false;
        return $text === false ? null : $text;
    }

    public function writeSession(string $id, string $data): void
    {
        $this->replace($this->sessionFile($id), $data);
    }

    public function touchSession(string $id): void
    {
        @touch($this->sessionFile($id));
    }

    public function removeSession(string $id): void
    {
        @unlink($this->sessionFile($id));
    }

    /**
     * Locks a session, as PHP's own handler does: for a whole request.
     * @return resource|null null if it is locked, and `$mayWait` is false
     */
    public function lockSession(string $id, bool $mayWait = true)
    {
        $file = $this->sessionFile($id) . '.lock';
        while (true) {
            $lock = fopen($file, 'c') ?: throw new \RuntimeException("cannot open $file");
            if (!flock($lock, $mayWait ? LOCK_EX : LOCK_EX | LOCK_NB)) {
                fclose($lock);
                return null;
            }
            clearstatcache(true, $file);
            if (@fileinode($file) === fstat($lock)['ino']) {
                return $lock;
            }
            // Somebody has removed the file while this request waited for it.
            fclose($lock);
        }
    }

    /** Removes the lock of a session that is gone; whoever holds it closes it afterwards. */
    public function removeLock(string $id): void
    {
        @unlink($this->sessionFile($id) . '.lock');
    }

    public function entry(string $ref): ?Entry
    {
        $file = @file_get_contents($this->refFile($ref));
        return $file === false ? null : Entry::read($file);
    }

    /**
     * Changes an entry under its lock.
     * @param callable(?Entry): ?Entry $change returns the new entry; null removes it, the same one leaves it
     */
    public function change(string $ref, callable $change): void
    {
        $lock = fopen($this->path . '/lock_' . crc32($ref) % self::REF_LOCKS, 'c') ?: throw new \RuntimeException("cannot write to $this->path");
        flock($lock, LOCK_EX);
        try {
            $entry = $this->entry($ref);
            $next = $change($entry);
            if ($next === null) {
                @unlink($this->refFile($ref));
            } elseif ($next !== $entry) {
                $this->replace($this->refFile($ref), $next->write());
            }
        } finally {
            fclose($lock);
        }
    }

    /** Counts an event. */
    public function count(string $event): void
    {
        $file = fopen($this->path . '/counts.json', 'c+');
        if ($file && flock($file, LOCK_EX)) {
            $counts = json_decode((string) stream_get_contents($file), true) ?: [];
            $counts[$event] = ($counts[$event] ?? 0) + 1;
            rewind($file);
            fwrite($file, json_encode($counts));
            fclose($file);
        }
    }

    /** @return array<string, int> */
    public function counts(): array
    {
        return json_decode((string) @file_get_contents($this->path . '/counts.json'), true) ?: [];
    }

    /** Removes what nobody has used for `$lifetime` seconds; returns how many sessions that were. */
    public function collect(int $lifetime): int
    {
        $removed = 0;
        foreach (new \DirectoryIterator($this->path) as $file) {
            $name = $file->getFilename();
            $age = $file->isFile() ? time() - $file->getMTime() : 0;
            if (str_starts_with($name, 'session_') && $age > $lifetime) {
                $isLock = str_ends_with($name, '.lock');
                $lock = $isLock ? fopen($file->getPathname(), 'c') : null;
                if (!$isLock || ($lock && flock($lock, LOCK_EX | LOCK_NB))) {
                    $removed += @unlink($file->getPathname()) && !$isLock;
                }
            } elseif ((str_starts_with($name, 'ref_') && $age > 2 * $lifetime) || (str_starts_with($name, 'new_') && $age > 3600)) {
                @unlink($file->getPathname());
            }
        }
        return $removed;
    }

    private function sessionFile(string $id): string
    {
        return $this->path . '/session_' . hash('sha256', $id);
    }

    private function refFile(string $ref): string
    {
        return $this->path . '/ref_' . $ref;
    }

    /** A reader, and a server that dies now, see the old file or the new one. */
    private function replace(string $file, string $content): void
    {
        $new = $this->path . '/new_' . bin2hex(random_bytes(8));
        if (@file_put_contents($new, $content) !== strlen($content) || !chmod($new, 0600) || !rename($new, $file)) {
            @unlink($new);
            throw new \RuntimeException("cannot write to $this->path: is the disk full?");
        }
    }
}
