"""The keys of Redis as a router has them in memory: no call waits for Redis. It does not know what they open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import structlog

from router_svc.access.key_store import KeyStore
from rstitch.errors import RstitchError
from rstitch.service.keys import Key

_log = structlog.get_logger(__name__)
# Of the five seconds in which a revocation holds on every router; the rest is for a Redis that takes its time.
_POLL_S = 1.0
# Long enough for Redis to be restarted. Without it a router keeps no answer anyway.
_HELD_S = 30.0


class CachedKeys:
    """A `KeySource` that is as old as the last time Redis answered: a second, while it does.

    While Redis is away the keys hold for `held_s` more; then, as before the first answer, none can be told.
    """

    def __init__(
        self,
        store: KeyStore,
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = _POLL_S,
        held_s: float = _HELD_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._poll_s = poll_s
        self._held_s = held_s
        self._keys: dict[str, Key] = {}
        self._version: bytes | None = None
        self._asked = float("-inf")  # when Redis was asked that answered last
        self._away = False

    def find(self, key_id: str) -> Key | None:
        if self._clock() - self._asked > self._held_s:
            raise RstitchError(
                grpc.StatusCode.UNAVAILABLE,
                "KEYS_UNAVAILABLE",
                "keys cannot be checked, as Redis does not answer.",
                remedy="Try again; the router's log says more.",
                retry_after_s=1.0,
            )
        return self._keys.get(key_id)

    async def keep(self) -> None:
        """Asks Redis for changes until it is cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._poll_s)

    async def refresh(self) -> None:
        """Asks Redis once, and reads the keys if they were changed."""
        asked = self._clock()
        try:
            if await self._store.version() != self._version:
                self._version, self._keys = await self._store.all()
                _log.info("keys read", num_keys=len(self._keys))
        except RstitchError as error:
            if not self._away:  # one line in the log for one outage
                _log.warning("keys cannot be read", error=str(error), held_s=self._held_s)
            self._away = True
        else:
            self._asked, self._away = asked, False

    async def close(self) -> None:
        await self._store.close()
