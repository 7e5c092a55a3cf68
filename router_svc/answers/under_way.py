"""What a router has under way for its sessions: work that no call can cancel, and that a drain waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from router_svc.answers import refusals

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
# At its router's end; what is cut off can be gone on with as if the router had died.
_PATIENCE_S = 10.0
_CANCEL_S = 1.0


class UnderWay:
    """Claims and deletions that are being made, and answers that are being written."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    def add(self, task: asyncio.Future[_T]) -> asyncio.Future[_T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, work: Awaitable[_T], unwanted: Callable[[_T], None] = lambda result: None) -> _T:
        """Runs `work` to its end even if the call is cancelled: half a claim would leave a session without a writer.

        `unwanted` then gets the result. Raises RstitchError (UNAVAILABLE) if a drain cuts it off.
        """
        task = self.add(asyncio.ensure_future(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise refusals.router_draining() from None

            def settle(done: asyncio.Future[_T]) -> None:
                # An exception that nobody looks at would be logged as a bug.
                if not done.cancelled() and done.exception() is None:
                    unwanted(done.result())

            task.add_done_callback(settle)
            raise

    async def end(self) -> None:
        """Returns once nothing is under way, what begins meanwhile included; what takes longer is cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        if self._tasks:
            _log.warning("cut off what takes too long to end", num=len(self._tasks), patience_s=_PATIENCE_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=_CANCEL_S)
