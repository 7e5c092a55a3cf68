"""What is done to keys: made, rotated, revoked, forgotten. It changes a dictionary, wherever that is kept."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import grpc

from rstitch.errors import RstitchError, invalid
from rstitch.service.caller import Limits, Scope
from rstitch.service.keys import TENANT, Key, new_secret, sha256_of

Keys = dict[str, Key]


def made(tenant: str, scopes: Collection[Scope], limits: Limits, lifetime_s: int | None, now: float) -> tuple[Key, str]:
    """Makes a key that holds for `lifetime_s` from Unix time `now` on (None: until it is revoked), and its secret.

    Raises: RstitchError (INVALID_ARGUMENT).
    """
    if not TENANT.fullmatch(tenant):
        raise invalid("--tenant", "it is no name of a tenant.", "Use 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    if not scopes:
        raise invalid("--scope", "a key without one is for nothing.", f"Name some of {', '.join(Scope)}.")
    key_id, secret = new_secret()
    created = int(now)
    expires = None if lifetime_s is None else created + lifetime_s
    return Key(key_id, tenant, frozenset(scopes), sha256_of(secret), created, expires, limits=limits), secret


def rotate(keys: Keys, key_id: str, grace_s: int, now: float) -> tuple[Key, str]:
    """Puts a new key with the same rights and the same lifetime beside one, which holds for `grace_s` more at most.

    Returns: the new key and its secret. Raises: RstitchError (NOT_FOUND, FAILED_PRECONDITION).
    """
    old = _known(keys, key_id)
    if old.replaced_by or not old.holds(now):
        told = f"key {key_id} was replaced by {old.replaced_by}." if old.replaced_by else f"key {key_id} does not hold."
        remedy = "Rotate that one." if old.replaced_by else "Make another: `rstitch keys add`."
        raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "KEY_IS_OVER", told, remedy=remedy)
    lifetime_s = None if old.expires is None else old.expires - old.created
    new, secret = made(old.tenant, old.scopes, old.limits, lifetime_s, now)
    ends = math.ceil(now) + grace_s
    keys[old.id] = replace(old, expires=min(ends, old.expires or ends), replaced_by=new.id)
    keys[new.id] = new
    return new, secret


def revoke(keys: Keys, key_id: str, now: float) -> None:
    """Lets a key hold no more; it stays known, since logs name its id. Raises: RstitchError (NOT_FOUND)."""
    key = _known(keys, key_id)
    keys[key_id] = key if key.revoked is not None else replace(key, revoked=int(now))


def forget(keys: Keys, key_id: str) -> None:
    """Lets nothing of a key be left, which then holds no more. Raises: RstitchError (NOT_FOUND)."""
    del keys[_known(keys, key_id).id]


def _known(keys: Keys, key_id: str) -> Key:
    if key_id not in keys:
        # What was typed may be a secret in place of its id.
        told = "there is no key of this id."
        raise RstitchError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_KEY", told, field="ID", remedy="See `rstitch keys ls`.")
    return keys[key_id]
