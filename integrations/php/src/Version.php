<?php
// Owns: versions of sessions, and the fields that carry them (docs/session-copies.md).
// Invariant: a field that is not exactly as described is as good as none.
// Must not know: sessions, files, time.
declare(strict_types=1);

namespace Linchpin\Session;

/** What Linchpin says about a request's session. Without `seq` it holds no copy. */
final class Version
{
    private const FIELD = '/^ref="([A-Za-z0-9_-]{1,64})"((?:; *[a-z]+(?:=[0-9]{1,15})?)*)$/D';

    public function __construct(
        public readonly string $ref,
        public readonly int $term,
        public readonly ?int $seq,
        public readonly bool $isDropped = false,
    ) {
    }

    /** Parses the value of a `Linchpin-Session` field. */
    public static function parse(?string $value): ?self
    {
        if (!preg_match(self::FIELD, $value ?? '', $match)) {
            return null;
        }
        $found = [];
        foreach (array_filter(array_map('trim', explode(';', $match[2]))) as $part) {
            [$name, $number] = [...explode('=', $part), null];
            $found[$name] = $number === null ? true : (int) $number;
        }
        ['term' => $term, 'seq' => $seq, 'dropped' => $dropped] = $found + ['term' => null, 'seq' => null, 'dropped' => false];
        if (!is_int($term) || $seq === true || !is_bool($dropped)) {
            return null;
        }
        return new self($match[1], $term, $seq, $dropped);
    }

    /** Says whether this is older than another version: the term decides before the seq. */
    public function isOlderThan(int $term, int $seq): bool
    {
        return [$this->term, $this->seq ?? -1] < [$term, $seq];
    }

    public function __toString(): string
    {
        return "ref=\"$this->ref\";term=$this->term" . ($this->seq === null ? '' : ";seq=$this->seq");
    }
}
