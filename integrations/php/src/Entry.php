<?php
// Owns: what a ref stands for on this server, as a file keeps it.
// Invariant: a file that is damaged is as good as none; Linchpin gives the copy again.
// Must not know: where the files are.
declare(strict_types=1);

namespace Linchpin\Session;

final class Entry
{
    /**
     * @param ?string $id the session that this version is; null after a drop, and while a given copy waits
     * @param string $digest of the session's text in this version
     * @param int $savedAt seconds since 1970
     * @param ?string $previous the session that was here before the copy which waits
     * @param bool $hasEnded the session was destroyed, and no response has said so yet
     * @param string $given a sealed copy that waits for a request of its session; else empty
     */
    public function __construct(
        public readonly int $term,
        public readonly int $seq,
        public readonly ?string $id = null,
        public readonly string $digest = '',
        public readonly int $savedAt = 0,
        public readonly ?string $previous = null,
        public readonly bool $hasEnded = false,
        public readonly string $given = '',
    ) {
    }

    public static function digest(string $data): string
    {
        return hash('sha256', $data);
    }

    public static function read(string $file): ?self
    {
        [$head, $given] = [...explode("\n", $file, 2), ''];
        $fields = json_decode($head, true);
        return is_array($fields) && count($fields) === 7 ? new self(...$fields, given: $given) : null;
    }

    public function write(): string
    {
        $fields = get_object_vars($this);
        unset($fields['given']);
        return json_encode($fields, JSON_THROW_ON_ERROR) . "\n" . $this->given;
    }

    /** Says that the session was destroyed. */
    public function ended(): self
    {
        return new self($this->term, $this->seq, $this->id, $this->digest, $this->savedAt, $this->previous, true, $this->given);
    }

    public function isOlderThan(int $term, int $seq): bool
    {
        return [$this->term, $this->seq] < [$term, $seq];
    }
}
