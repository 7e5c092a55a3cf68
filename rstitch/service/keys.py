"""Access keys: what is kept of one, and how its secret is made and recognised. It does not know where keys are kept.

A secret is 256 random bits, so that its plain SHA-256 gives nothing away: there is no list of likely ones to try.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Protocol, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from rstitch.service.caller import Caller, Limits, Scope

_T = TypeVar("_T")
TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PREFIX = "rstitch"
_ID_BYTES, _SECRET_BYTES = 8, 32
_SECRET = re.compile(rf"{_PREFIX}-([0-9a-f]{{{2 * _ID_BYTES}}})-")
_UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key: all but its secret.

    Attributes:
        id: 16 hexadecimal digits, no secret; it is part of the secret, which is found by it.
        tenant: whose the key is; it matches `TENANT`.
        sha256: of the whole secret, in hexadecimal digits.
        created, expires, revoked: Unix times in s; None: never. A key that was revoked holds no more, whatever the
            time is, so that a revocation needs no clocks that agree.
        replaced_by: id of the key that `rstitch keys rotate` made in its place; "": there is none.
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    tenant: Annotated[str, Field(pattern=rf"^{TENANT.pattern}$")]
    scopes: frozenset[Scope]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: int
    expires: int | None = None
    revoked: int | None = None
    limits: Limits = _UNLIMITED
    replaced_by: str = ""

    def holds(self, now: float) -> bool:
        """Says whether whoever shows it at Unix time `now` is let in."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def caller(self) -> Caller:
        return Caller(self.tenant, self.id, self.scopes, self.limits)


@dataclass(frozen=True, slots=True)
class _All:
    keys: list[Key]


class KeySource(Protocol):
    """Where a server finds the keys that are shown to it."""

    def find(self, key_id: str) -> Key | None:
        """Returns the key of an id at once, from memory; it may have expired or be revoked.

        Raises: RstitchError (UNAVAILABLE, KEYS_UNAVAILABLE) if it cannot be known at the moment.
        """
        ...


# What a secret is compared with whose id nobody knows; no secret has this digest.
_NOBODYS_SHA256 = secrets.token_hex(32)
_KEY: TypeAdapter[Key] = TypeAdapter(Key)
_ALL: TypeAdapter[_All] = TypeAdapter(_All)


def new_secret() -> tuple[str, str]:
    """Makes the id of a new key and its secret, `rstitch-ID-...`, which nobody can make again from what is kept."""
    key_id = secrets.token_hex(_ID_BYTES)
    return key_id, f"{_PREFIX}-{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"


def sha256_of(secret: str) -> str:
    """Returns what is kept in place of a secret, in hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def id_in(secret: str) -> str:
    """Returns the id that a secret has in it, whether there is such a key or not; "" if it has the form of none."""
    found = _SECRET.match(secret)
    return found[1] if found else ""


def key_of(secret: str, source: KeySource, now: float) -> Key | None:
    """Returns the key that a secret belongs to, None unless there is one that holds at Unix time `now`.

    The work is the same for a secret that is malformed, of an unknown id, wrong, revoked or expired, so that its time
    does not tell which. Raises: RstitchError (UNAVAILABLE) if the keys cannot be known at the moment.
    """
    key = source.find(id_in(secret))
    is_its = hmac.compare_digest(sha256_of(secret), _NOBODYS_SHA256 if key is None else key.sha256)
    return key if key is not None and is_its and key.holds(now) else None


def to_json(key: Key) -> str:
    """Writes a key as one line of JSON, which has its digest and no secret."""
    return _KEY.dump_json(key, exclude_defaults=True).decode()


def from_json(text: str | bytes) -> Key:
    """Reads a key. Raises: ValueError that names the field at fault, and does not quote what is in it."""
    return _checked(_read(_KEY, text))


def all_to_json(keys: Iterable[Key]) -> bytes:
    """Writes keys as one JSON object, so that one that was cut short is never taken for one with fewer keys."""
    return _ALL.dump_json(_All(list(keys)), exclude_defaults=True, indent=1) + b"\n"


def all_from_json(text: bytes) -> dict[str, Key]:
    """Reads keys by their ids. Raises: ValueError as `from_json` does."""
    return {key.id: _checked(key) for key in _read(_ALL, text).keys}


def _read(kind: TypeAdapter[_T], text: str | bytes) -> _T:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{field}: {first['msg']}" if field else first["msg"]) from None


def _checked(key: Key) -> Key:
    if min(asdict(key.limits).values()) < 0:
        raise ValueError("limits: one is negative")
    return key
