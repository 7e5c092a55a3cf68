"""Where texts become prompts: off the event loop, long ones behind one another, and only so many waiting.

A long text takes its time and its memory, and a slow template more. Long ones have one thread, in which they come in
order, so that memory is taken for one at a time; short ones have others, and wait for none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc

from rstitch.errors import RstitchError
from rstitch.service.schema_trial import too_many

_T = TypeVar("_T")
# Bytes of a request from which on it is a long one.
_LONG = 128 * 1024
# Bytes of long ones that may wait or be worked on together. One is always taken.
_MAX_WAITING = 32 * 1024 * 1024
_SHORT_ONES = ThreadPoolExecutor(4, "prompts")
# Of what is no question, so many at once, whatever is asked for: questions keep the other threads.
_MAX_ASIDE = 2
_MAX_ASIDE_WAITING = 64
_LONG_ONES = ThreadPoolExecutor(1, "long-prompts")
# Schemas that wait to be tried, behind one another: nobody without one waits for them.
_MAX_SCHEMAS = 32
_SCHEMAS = ThreadPoolExecutor(1, "schemas")


class Apart:
    """Makes what takes a text, in threads that all routers of a process share."""

    def __init__(self) -> None:
        self._waiting = 0  # bytes of long ones
        self._aside = asyncio.Semaphore(_MAX_ASIDE)
        self._num_aside = 0
        self._num_schemas = 0

    async def make_aside(self, make: Callable[[], _T], num_bytes: int) -> _T:
        """Calls `make` as the method `make` does, but never so that questions have to wait for it.

        Raises RstitchError (RESOURCE_EXHAUSTED) if too many are waiting, too.
        """
        if self._num_aside >= _MAX_ASIDE + _MAX_ASIDE_WAITING:
            code, remedy = grpc.StatusCode.RESOURCE_EXHAUSTED, "Try again later."
            what = f"{self._num_aside} other texts are still being read."
            raise RstitchError(code, "TOO_MUCH_TEXT", what, remedy=remedy, retry_after_s=1.0)
        self._num_aside += 1
        try:
            async with self._aside:
                return await self.make(make, num_bytes)
        finally:
            self._num_aside -= 1

    async def make_schema(self, make: Callable[[], None]) -> None:
        """Calls `make`, which tries a schema. Raises RstitchError (RESOURCE_EXHAUSTED) if too many are waiting."""
        if self._num_schemas >= _MAX_SCHEMAS:
            raise too_many(f"{self._num_schemas} other schemas are still being read.")
        self._num_schemas += 1
        try:
            await asyncio.get_running_loop().run_in_executor(_SCHEMAS, make)
        finally:
            self._num_schemas -= 1

    async def make(self, make: Callable[[], _T], num_bytes: int) -> _T:
        """Calls `make` off the loop, of a request with `num_bytes`.

        Raises RstitchError (RESOURCE_EXHAUSTED) if too many long ones are waiting, and whatever `make` does.
        """
        loop = asyncio.get_running_loop()
        if num_bytes < _LONG:
            return await loop.run_in_executor(_SHORT_ONES, make)
        if self._waiting and self._waiting + num_bytes > _MAX_WAITING:
            what = f"{self._waiting >> 20} MiB of other texts are still being read."
            code, remedy = grpc.StatusCode.RESOURCE_EXHAUSTED, "Try again later, or send less at once."
            raise RstitchError(code, "TOO_MUCH_TEXT", what, remedy=remedy, retry_after_s=1.0)
        self._waiting += num_bytes
        working = loop.run_in_executor(_LONG_ONES, make)
        # A call that is cancelled does not stop the thread: the text is there until it is done.
        working.add_done_callback(lambda _: self._done(num_bytes))
        return await asyncio.shield(working)

    def _done(self, num_bytes: int) -> None:
        self._waiting -= num_bytes
