"""Writes of many callers that share a round trip. It knows neither the writes nor where they go.

One call is under way at a time; what comes meanwhile waits and goes out together:

    caller      a    b c d        e
    call        [ a      ] [ b c d  ] [ e  ]

So a lone write waits for nobody, and under load the number of calls stays that of round trips, not that of writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

_log = structlog.get_logger(__name__)
T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Puts what comes while a call is under way into the next call, in the order in which it came."""

    def __init__(self, send: Callable[[list[T]], Awaitable[Sequence[R | Exception]]], max_group: int) -> None:
        self._send = send  # returns a result for each item, or an exception for one that was refused
        self._max_group = max_group
        self._waiting: list[tuple[T, Callable[[R | Exception], None]]] = []
        self._task: asyncio.Task[None] | None = None

    def submit(self, item: T, done: Callable[[R | Exception], None]) -> None:
        """Takes an item for the next call; `done`, which must not raise, gets its result or what went wrong.

        So nobody need wait in a task of its own, which costs more than the item.
        """
        self._waiting.append((item, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="group commit")

    async def __call__(self, item: T) -> R:
        """Returns the result for `item`. Raises what the call raised, or the exception that it returned for `item`."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()

        def done(result: R | Exception) -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(item, done)
        try:
            return await future
        except asyncio.CancelledError:
            # It is no longer wanted; if it is already in a call, that cannot be stopped.
            with suppress(ValueError):
                self._waiting.remove((item, done))
            raise

    async def _run(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[: self._max_group], self._waiting[self._max_group :]
            try:
                results = await self._send([item for item, _ in group])
                if len(results) != len(group):
                    raise RuntimeError(f"{len(results)} results for {len(group)} writes")
            except Exception as error:  # noqa: BLE001 - each of those who wait is told
                results = [error] * len(group)
            for (_, done), result in zip(group, results, strict=True):
                try:
                    done(result)
                except Exception as error:  # noqa: BLE001 - a bug of one caller must not end the writes of all
                    _log.error("a write's result was not taken", exc_info=error)
        self._task = None
