"""Where the workers of a role are: listed by address, behind a name of DNS, or announced in Redis.

A source is asked again and again, and answers with all that there are. It talks to no worker.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import structlog

from fleet.announcement import Announcement
from fleet.registry import BEAT_S, TTL_S, Registry
from rstitch.errors import RstitchError
from rstitch.limits import DNS_PREFIX

_log = structlog.get_logger(__name__)
_RESOLVE_EVERY_S = 3.0
_READ_EVERY_S = 0.5
# Whoever lives has announced itself again by then, should Redis have forgotten it.
_UNHEARD_S = BEAT_S + _READ_EVERY_S
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Standing(Enum):
    """How sure it is that a worker is there."""

    THERE = "there"
    LEAVING = "leaving"  # its name no longer has this address: what it does goes on, and nothing new goes there
    SILENT = "silent"  # nobody says that it is there, and nobody that it is not


@dataclass(frozen=True, slots=True)
class Found:
    """A worker that a source knows of.

    Attributes:
        tls_name: what its certificate is made out to; "": the host of its address.
    """

    address: str
    announcement: Announcement | None = None
    standing: Standing = Standing.THERE
    tls_name: str = ""

    @property
    def key(self) -> str:
        """Tells it from all others: one that moves is another one, as is another at its address."""
        return f"{self.announcement.id}@{self.address}" if self.announcement is not None else self.address


class Source(Protocol):
    """Says which workers there are.

    Attributes:
        every_s: how often it is asked; None: once.
        nobody: what is waited for while it finds none, in words.
    """

    every_s: float | None
    nobody: str

    async def look(self) -> Sequence[Found] | None:
        """All workers of the role; None: nothing new is known."""

    def forget(self, key: str) -> None:
        """One that is leaving does not answer any more."""


class Listed:
    """Workers at addresses that were given."""

    every_s: float | None = None
    nobody = "no address"

    def __init__(self, addresses: Sequence[str]) -> None:
        self.found = [Found(address) for address in dict.fromkeys(addresses)]

    async def look(self) -> Sequence[Found] | None:
        return self.found

    def forget(self, key: str) -> None:
        pass


async def _resolve(name: str, port: int) -> Sequence[str]:
    """The addresses of a name, as HOST:PORT, sorted. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    hosts = sorted({str(address[0]) for _, _, _, _, address in found})
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


class Named:
    """All addresses of a name of DNS. One that fails to be looked up keeps those that it had."""

    every_s: float | None = _RESOLVE_EVERY_S

    def __init__(self, name: str, port: int, resolve: Resolve = _resolve) -> None:
        self.nobody = f"{name} has no address"
        self._name = name
        self._port = port
        self._resolve = resolve
        self._known: dict[str, Found] = {}
        self._failed = False

    async def look(self) -> Sequence[Found] | None:
        try:
            addresses = await self._resolve(self._name, self._port)
        except OSError as error:
            if not self._failed:
                _log.warning(
                    "workers' name not looked up: their last addresses stay", name=self._name, error=str(error)
                )
            self._failed = True
            return None
        self._failed = False
        there = {address: Found(address, tls_name=self._name) for address in addresses}
        left = {
            key: replace(found, standing=Standing.LEAVING) for key, found in self._known.items() if key not in there
        }
        self._known = there | left
        return list(self._known.values())

    def forget(self, key: str) -> None:
        found = self._known.get(key)
        if found is not None and found.standing is Standing.LEAVING:
            del self._known[key]


class Announced:
    """Workers that announce themselves in Redis. One whose announcement has ended is gone.

    But not where that may say more of Redis than of the worker: one that has forgotten all hears of them again at their
    next beats, or later if it was away; and where nobody is there at all, nobody could take anybody's place.
    """

    every_s: float | None = _READ_EVERY_S

    def __init__(self, registry: Registry, role: str, now: Callable[[], float] = time.monotonic) -> None:
        self.nobody = f"none has announced itself in the fleet {registry.fleet}"
        self._registry = registry
        self._role = role
        self._now = now
        self._known: dict[str, Found] = {}
        self._missing: dict[str, float] = {}  # since when
        self._settled_at = 0.0
        self._failed = False

    async def look(self) -> Sequence[Found] | None:
        try:
            announced = await self._registry.read(self._role)
        except RstitchError as error:
            if not self._failed:
                _log.warning("registry not read: its last workers stay", role=self._role, error=str(error))
            self._failed = True
            return None
        now, there = self._now(), {found.key: found for found in (Found(each.address, each) for each in announced)}
        if self._failed or not there:
            self._settled_at = now + TTL_S
        self._failed = False
        elsewhere = {each.id for each in announced}
        missing = {
            key: replace(found, standing=Standing.SILENT)
            for key, found in self._known.items()
            if key not in there and found.announcement is not None and found.announcement.id not in elsewhere
        }
        self._missing = {key: self._missing.get(key, now) for key in missing}
        is_settled = bool(there) and now >= self._settled_at
        silent = [key for key, since in self._missing.items() if not is_settled or now < since + _UNHEARD_S]
        self._known = there | {key: missing[key] for key in silent}
        return list(self._known.values())

    def forget(self, key: str) -> None:
        pass


def source_of(value: str, role: str, registry: Callable[[], Registry]) -> Source:
    """The source that a setting names: addresses, a name of DNS, or, if it is empty, the registry."""
    if not value:
        return Announced(registry(), role)
    if value.startswith(DNS_PREFIX):
        name, _, port = value.removeprefix(DNS_PREFIX).rpartition(":")
        return Named(name.removeprefix("[").removesuffix("]"), int(port))
    return Listed([address.strip() for address in value.split(",")])
