"""What a router has under way for its sessions: calls that run to their end, and answers. A drain waits for both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from router_svc.answers import refusals

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_CANCEL_S = 1.0


class UnderWay:
    """Claims and deletions that are being made, and answers that are being written."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Future[Any]] = set()
        self._answers: set[asyncio.Task[None]] = set()

    def add(self, answer: asyncio.Task[None]) -> None:
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def run(self, call: Awaitable[_T], unwanted: Callable[[_T], None] = lambda result: None) -> _T:
        """Runs `call` to its end even if its caller is gone: half a claim would leave a session without a writer.

        `unwanted` then gets the result. Raises RstitchError (UNAVAILABLE) if a drain cuts it off.
        """
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
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

    async def end_calls(self, patience_s: float) -> None:
        """Returns once the calls that are under way now are over.

        Those that take longer are cut off: what they claimed can be gone on with as if the router had died.
        """
        if calls := set(self._calls):
            _, late = await asyncio.wait(calls, timeout=patience_s)
            if late:
                _log.warning("calls cut off that do not end", num=len(late), patience_s=patience_s)
                for task in late:
                    task.cancel()
                await asyncio.wait(late, timeout=_CANCEL_S)

    async def end_answers(self) -> None:
        """Returns once all answers are over, which must have been told to end, and what they owe is settled."""
        if self._answers:
            await asyncio.wait(self._answers)
