"""What a copy holds, and its sealing with the application's secrets: only who has one can read or make a copy."""

import dataclasses
import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIN_SECRET_BYTES = 32
_PURPOSE = b"linchpin session copy v1"
_NONCE_BYTES = 12


@dataclasses.dataclass(frozen=True)
class Copy:
    """A session as it is in a copy."""

    id: str  # the session's id: the copy is for the client whose cookie has it
    ttl: int  # seconds that it lives after its last request
    until: float | None  # Unix time when it ends in any case
    data: bytes


class Keys:
    """The keys of the application's secrets: the first seals, all open."""

    def __init__(self, secrets):
        secrets = [secret.encode() if isinstance(secret, str) else bytes(secret) for secret in secrets]
        if not secrets or any(len(secret) < MIN_SECRET_BYTES for secret in secrets):
            raise ValueError(
                f"session copies need a secret of at least {MIN_SECRET_BYTES} bytes, e.g. from `openssl rand -hex 32`"
            )
        self._keys = [AESGCM(HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(secret)) for secret in secrets]

    def seal(self, copy):
        """Returns the sealed copy: nonce, cipher text, tag."""
        head = json.dumps({"id": copy.id, "ttl": copy.ttl, "until": copy.until}).encode()
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._keys[0].encrypt(nonce, head + b"\n" + copy.data, _PURPOSE)

    def open(self, sealed):
        """Returns the Copy, or None if none of the secrets sealed it."""
        nonce, sealed = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        for key in self._keys:
            try:
                head, _, data = key.decrypt(nonce, sealed, _PURPOSE).partition(b"\n")
                return Copy(data=data, **json.loads(head))
            except (InvalidTag, ValueError, TypeError):
                continue
        return None
