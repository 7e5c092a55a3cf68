"""The announcements of a worker: that it is there and how full it is, said in Redis once a second.

It waits for no step: a beat tells what the engine's books say at that moment. It knows no wire and no router.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import grpc
import structlog

from fleet.announcement import Announcement
from fleet.registry import BEAT_S, TTL_S, Registry
from model_worker.draining import Draining
from model_worker.engine.counters import Capacity
from rstitch.backoff import Backoff
from rstitch.errors import RstitchError
from storage.redis_link import RedisLink

_log = structlog.get_logger(__name__)
# Whoever is refused may only have come too soon after one that died, which is gone `TTL_S` after its last beat.
_PATIENCE_S = 2 * TTL_S
# A Redis that refuses what it is told, as one that is full, is asked less often: it needs somebody's hand. But once it
# takes the first worker's word again, routers keep the others for `TTL_S` only.
_LONGEST_PAUSE_S = TTL_S - BEAT_S


class Announcer:
    """Announces the roles of one process, from `start` to `stop`."""

    def __init__(self, link: RedisLink, fleet: str, capacity: Callable[[], Capacity]) -> None:
        self._link = link
        self._registry = Registry(link, fleet)
        self._capacity = capacity
        self._roles: list[tuple[Announcement, Draining]] = []
        self._changed = asyncio.Event()
        self._is_over = False
        # Ends by itself only with RstitchError (FAILED_PRECONDITION): the fleet has refused this worker for a while.
        self.beating: asyncio.Task[None] | None = None

    def add(self, worker: Announcement, draining: Draining) -> None:
        """Adds a role, with the figures as they will be told left at anything."""
        self._roles.append((worker, draining))

    def start(self) -> asyncio.Task[None]:
        """Begins to announce what was added, which must serve by now."""
        self.beating = asyncio.create_task(self._beat(), name="announce")
        return self.beating

    async def stop(self) -> None:
        """Says that the worker is gone, if Redis can be told in time."""
        self._is_over = True
        self.hurry()
        if self.beating is not None:
            # Not by a cancellation first: the library under a beat may lose one, and then the beats would go on.
            await asyncio.wait({self.beating}, timeout=BEAT_S)
            self.beating.cancel()
            await asyncio.wait({self.beating})
        with suppress(TimeoutError, RstitchError):
            async with asyncio.timeout(BEAT_S):
                for worker in self._now():
                    await self._registry.withdraw(worker)
        await self._link.close()

    def hurry(self) -> None:
        """Makes the next beat come now."""
        self._changed.set()

    async def _beat(self) -> None:
        refused_since: float | None = None
        told, time = "", asyncio.get_running_loop().time  # what the log said last: a line for a change, not for a beat
        pauses = Backoff(first_s=BEAT_S, max_s=_LONGEST_PAUSE_S, patience_s=None)
        while not self._is_over:
            self._changed.clear()
            pause_s = BEAT_S
            try:
                for worker in self._now():
                    await self._registry.beat(worker)
            except RstitchError as error:
                if error.code is grpc.StatusCode.FAILED_PRECONDITION:
                    if refused_since is None:
                        refused_since = time()
                        _log.warning("refused by the fleet, tried again for a while", error=str(error))
                    elif time() - refused_since > _PATIENCE_S:
                        raise
                elif told != error.reason:
                    told = error.reason
                    _log.warning("not announced: no redis", url=self._link.address, error=error.reason)
                if error.reason == "REDIS_REFUSED":
                    pause_s = pauses.next_s() or pause_s
            else:
                refused_since = None
                pauses.reset()
                if told != "announced":
                    told = "announced"
                    _log.info(told, fleet=self._registry.fleet, workers=self._shown())
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()

    def _now(self) -> Sequence[Announcement]:
        room = self._capacity()
        return [
            replace(
                worker,
                num_pages=room.num_pages,
                num_free_pages=room.num_available_pages,
                num_running=room.num_runs - room.num_waiting_runs,
                num_waiting=room.num_waiting_runs,
                num_sessions=room.num_sessions,
                draining=draining.is_on,
            )
            for worker, draining in self._roles
        ]

    def _shown(self) -> list[str]:
        return [f"{worker.id} at {worker.address}" for worker, _ in self._roles]
