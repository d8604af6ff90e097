"""The fields of the protocol: reading Linchpin-Session, writing those that save and drop.

A field in any other format is no field.
"""

import base64
import dataclasses
import re

_FIELD = re.compile(r'ref="([A-Za-z0-9_-]{1,64})"((?: *; *[a-z][a-z0-9_.*-]*(?:=[^;,"]*)?)*) *')
_NUMBER = re.compile(r"[0-9]{1,15}")


@dataclasses.dataclass(frozen=True)
class SessionField:
    """The value of Linchpin-Session."""

    ref: str
    term: int
    seq: int | None  # the state that Linchpin knows of; None: it holds no copy
    dropped: bool  # with that state the session has ended

    @property
    def version(self):
        """Returns the version that Linchpin knows of, or None."""
        return None if self.seq is None else (self.term, self.seq)


def read(text):
    """Returns the SessionField of a field value, or None."""
    match = _FIELD.fullmatch(text or "")
    if not match:
        return None
    parameters = {}
    for part in match[2].split(";")[1:]:
        name, _, value = part.strip().partition("=")
        parameters[name] = value.strip()
    numbers = [parameters.get("term"), parameters.get("seq")]
    if any(number is not None and not _NUMBER.fullmatch(number) for number in numbers) or numbers[0] is None:
        return None
    seq = None if numbers[1] is None else int(numbers[1])
    return SessionField(match[1], int(numbers[0]), seq, "dropped" in parameters)


def session(ref, version):
    """Returns the value of Linchpin-Session that names a version."""
    return f'ref="{ref}";term={version[0]};seq={version[1]}'


def save(copy, version, ttl):
    """Returns the value of Linchpin-Session-Save. The copy lives for `ttl` seconds after the session's last request."""
    return f":{base64.b64encode(copy).decode()}:;term={version[0]};seq={version[1]};ttl={ttl}"


def drop(version):
    """Returns the value of Linchpin-Session-Drop."""
    return f"?1;term={version[0]};seq={version[1]}"
