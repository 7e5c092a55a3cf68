"""Writes of many callers that share a round trip. It knows neither the writes nor where they go.

One call is under way at a time; what comes meanwhile waits and goes out together:

    caller      a    b c d        e
    call        [ a      ] [ b c d  ] [ e  ]

So a lone write waits for nobody, and under load the number of calls stays that of round trips, not that of writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Puts what comes while a call is under way into the next call, in the order in which it came."""

    def __init__(self, send: Callable[[list[T]], Awaitable[Sequence[R | Exception]]], max_group: int) -> None:
        self._send = send  # returns a result for each item, or an exception for one that was refused
        self._max_group = max_group
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """Returns the result for `item`. Raises what the call raised, or the exception that it returned for `item`."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="group commit")
        return await done

    async def _run(self) -> None:
        while self._waiting:
            # A caller that was cancelled no longer wants its item written; one that is already in a call cannot be
            # stopped.
            waiting = [(item, done) for item, done in self._waiting if not done.done()]
            group, self._waiting = waiting[: self._max_group], waiting[self._max_group :]
            try:
                results = await self._send([item for item, _ in group]) if group else []
            except Exception as error:  # noqa: BLE001 - each of those who wait is told
                results = [error] * len(group)
            for (_, done), result in zip(group, results, strict=True):
                if done.done():
                    continue
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
        self._task = None
