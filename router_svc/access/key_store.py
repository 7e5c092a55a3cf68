"""Keys in Redis: read whole, and changed by one Lua script. It does not know who asks for them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from importlib import resources
from typing import TypeVar

import structlog

from router_svc.trajectory import keys
from rstitch.service.keys import Key, from_json, to_json
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_VERSION = b"version"


class KeyStore:
    """The keys that all routers on one Redis share; a call is retried for `patience_s` while Redis is away."""

    def __init__(self, redis: RedisAddress, patience_s: float) -> None:
        self._link = RedisLink(redis, patience_s)
        self._script = self._link.redis.register_script(
            resources.files(__package__).joinpath("keys.lua").read_text("utf-8")
        )

    async def close(self) -> None:
        await self._link.close()

    async def version(self) -> bytes:
        """Returns what differs after every change; b"" before the first."""
        return (await self._link.command("HGET", keys.KEYS, _VERSION)) or b""

    async def all(self) -> tuple[bytes, dict[str, Key]]:
        """Returns the version, and all keys by their ids. One that cannot be read is left out, and does not hold."""
        kept: dict[bytes, bytes] = await self._link.command("HGETALL", keys.KEYS)
        version = kept.pop(_VERSION, b"")
        found = {}
        for key_id, text in kept.items():
            try:
                key = from_json(text)
            except ValueError as error:
                _log.error("a key cannot be read", key_id=key_id.decode("ascii", "replace"), error=str(error))
            else:
                found[key.id] = key
        return version, found

    async def change(self, edit: Callable[[dict[str, Key]], _T]) -> _T:
        """Lets `edit` change the keys that it is given; it is called again if they were changed meanwhile.

        Returns: what `edit` returned. Raises: what `edit` raises, and RstitchError (UNAVAILABLE).
        """
        while True:
            version, before = await self.all()
            after = dict(before)
            made = edit(after)
            if after == before or await self._put(version, before, after):
                return made

    async def _put(self, version: bytes, before: Mapping[str, Key], after: Mapping[str, Key]) -> bool:
        # Redis may do it twice: the second time it finds the version that this very call has left.
        next_version = secrets.token_hex(8).encode()
        changed = {key_id: to_json(key) for key_id, key in after.items() if before.get(key_id) != key}
        changed |= dict.fromkeys(before.keys() - after.keys(), "")
        args: list[bytes | str] = [version, next_version, *(part for pair in changed.items() for part in pair)]
        found: bytes = await self._link.call(lambda: self._script(keys=[keys.KEYS], args=args))
        return found == next_version
