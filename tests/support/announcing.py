"""Toy workers announce themselves in a fleet, as real ones do."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fleet.announcement import Announcement
from fleet.registry import Registry
from rstitch.errors import RstitchError
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from tests.support.fake_worker import FakeWorker

_BEAT_S = 0.2


class Announcer:
    """Announces whatever worker is in `workers`, as it is at each beat."""

    def __init__(self, registry: Registry) -> None:
        self.workers: list[FakeWorker] = []
        self._registry = registry

    async def join(self, *workers: FakeWorker) -> None:
        self.workers += workers
        for worker in workers:
            await self._registry.beat(announcement_of(worker))

    async def leave(self, worker: FakeWorker) -> None:
        """It is gone at once, as one that was stopped; it may go on, and nobody hears it."""
        self.workers.remove(worker)
        await self._registry.withdraw(announcement_of(worker))

    async def keep(self) -> None:
        while True:
            for worker in list(self.workers):
                with suppress(RstitchError):  # Redis is away
                    await self._registry.beat(announcement_of(worker))
            await asyncio.sleep(_BEAT_S)


@asynccontextmanager
async def announcing(redis_url: str, fleet: str = "default") -> AsyncIterator[Announcer]:
    link = RedisLink(RedisAddress(redis_url), 0)
    announcer = Announcer(Registry(link, fleet))
    task = asyncio.create_task(announcer.keep())
    try:
        yield announcer
    finally:
        task.cancel()
        await asyncio.wait({task})
        await link.close()


def announcement_of(worker: FakeWorker) -> Announcement:
    return Announcement(
        id=worker.worker_id,
        role="slm" if worker.role == 1 else "llm",
        address=worker.address,
        instance_id=worker.instance_id,
        weights_fingerprint=worker.weights_fingerprint,
        tokenizer_fingerprint=f"{zlib.crc32(worker.files.data):08x}",
        model=f"toy-{worker.role}",
        version="0",
        num_pages=worker.num_pages,
        num_free_pages=worker.num_free_pages,
        num_running=len(worker.busy),
        num_waiting=0,
        num_sessions=len(worker.sessions),
        draining=worker.draining,
    )
