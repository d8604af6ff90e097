<?php
// Owns: what was in a copy.
// Invariant: it was sealed by a server of the application.
// Must not know: how it was sealed.
declare(strict_types=1);

namespace Linchpin\Session;

final class Opened
{
    public function __construct(
        public readonly string $id,
        public readonly string $data,
        private readonly int $sealedAt,
        private readonly int $lifetime,
    ) {
    }

    /** Says whether the session is over: its server would have sealed it again after a tenth of its lifetime. */
    public function hasExpired(int $now): bool
    {
        return $now > $this->sealedAt + $this->lifetime * 1.1;
    }
}
