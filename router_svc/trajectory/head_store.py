"""Heads in Redis, by name and version: every router finds at once what one was given. It does not look into them.

A version is made of the content, so that what is kept under NAME@VERSION never changes; only what NAME stands for does.
All changes go through one Lua script.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import resources
from typing import Any

from router_svc.trajectory import keys
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink


@dataclass(frozen=True, slots=True)
class KeptHead:
    """What the store says of a head beside its data; `active` if its name stands for this version.

    `put_ms` is when it was last put, by the clock; `ttl_ms` how long it still stays, None for ever.
    """

    name: str
    version: str
    active: bool
    facts: str  # as whoever put it wrote them
    description: str
    put_ms: int
    ttl_ms: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """Which version was asked for, which one the name stands for, and the one before it; "" is none."""

    version: str
    active: str
    before: str


class HeadStore:
    """Keeps, finds and forgets heads; a call is retried for `patience_s` while Redis is away, which changes nothing."""

    def __init__(self, address: RedisAddress, patience_s: float) -> None:
        self._link = RedisLink(address, patience_s)
        self._script, self._adopt = (
            self._link.redis.register_script(resources.files(__package__).joinpath(name).read_text("utf-8"))
            for name in ("heads.lua", "adopt.lua")
        )
        self._has_adopted = self._link.cluster is not None  # which no earlier release could use

    async def close(self) -> None:
        await self._link.close()

    async def find(self, name: str, version: str = "") -> Found:
        """Looks NAME@VERSION up, or the version that NAME stands for, without its data."""
        return Found(*(part.decode() for part in await self._run("find", name, version)))

    async def read(self, name: str, version: str) -> bytes | None:
        """The data of a version; None if it is not kept, or not any more."""
        data: bytes | None = await self._link.command("HGET", keys.head(f"{name}@{version}"), "data")
        return data

    async def all(self, patience_s: float | None = None) -> list[KeptHead]:
        """All that are kept, the one put last first; `patience_s` as in `RedisLink.call`."""
        rows = await self._run("list", patience_s=patience_s)
        return [
            KeptHead(
                name.decode(),
                version.decode(),
                bool(active),
                facts.decode(),
                description.decode(),
                int(float(put_ms)),
                ttl_ms if ttl_ms >= 0 else None,
            )
            for name, version, active, facts, description, put_ms, ttl_ms in rows
        ]

    async def put(
        self, name: str, version: str, data: bytes, facts: str, description: str, *, ttl_s: int, active: bool
    ) -> None:
        """Keeps a version, for `ttl_s` (0: for ever), and puts it into service if it is to be `active`."""
        now_ms = int(time.time() * 1000)
        await self._run("put", name, version, data, facts, description, now_ms, 1000 * ttl_s, int(active))

    async def activate(self, name: str, version: str) -> bool:
        """Lets NAME stand for a version; False if that is not kept."""
        return bool(await self._run("activate", name, version) == b"OK")

    async def delete(self, name: str, version: str = "") -> str:
        """Forgets a version or, without one, all of a name: OK, UNKNOWN, or ACTIVE (and nothing was done).

        UNKNOWN may also mean that this very call forgot it: its reply was lost, and the call was made again.
        """
        reply: bytes = await self._run("delete", name, version)
        return reply.decode()

    async def _run(
        self, what: str, name: str = "", version: str = "", *more: Any, patience_s: float | None = None
    ) -> Any:
        if not self._has_adopted:
            names, prefixes = [keys.OLD_HEADS, keys.HEADS], [keys.OLD_HEAD_PREFIX, keys.HEAD_PREFIX]
            await self._link.call(lambda: self._adopt(keys=names, args=prefixes), patience_s)
            self._has_adopted = True
        args = [what, keys.HEAD_PREFIX, name, version, *more]
        return await self._link.call(lambda: self._script(keys=[keys.HEADS], args=args), patience_s)
