"""Work that ends once the client that waits for it has left. It does not know what is worked on."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive


class Left(Exception):
    """Is raised where a request's client has left before its answer was told."""


class WhileHere:
    """Around what is done for a client whose request was read. Raises: Left, in place of it, once the client has left.

    What is inside is cancelled as `asyncio.timeout` does it, so that it needs no task of its own.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_over = self._has_told = False

    async def __aenter__(self) -> Self:
        inside = asyncio.current_task()
        assert inside is not None
        self._inside, self._num_cancelled = inside, inside.cancelling()
        self._leaving = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        if not self._has_told:
            self._leaving.cancel()
        elif self._inside.uncancel() <= self._num_cancelled and kind is asyncio.CancelledError:
            raise Left from None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._is_over:
            self._has_told = True
            self._inside.cancel()
