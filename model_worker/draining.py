"""Whether a worker is to get no new sessions, and the calls that are open on it meanwhile.

It refuses nobody: routers take their sessions elsewhere, if there is another worker, and what they send until then is
computed. It knows no wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc

from rstitch.errors import RstitchError


class Visit(Protocol):
    """A call that somebody may yet expect something of."""

    @property
    def is_running(self) -> bool:
        """Whether a run of it waits or goes on."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A visit that is one run from its beginning to its end."""

    is_running: bool = True


class Draining:
    """The state of one role on one worker. `on_change` is called when it begins or ends."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self.is_on = False
        self._on_change = on_change
        self._is_final = False
        self._visits: set[Visit] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def num_streams(self) -> int:
        """Number of calls that are open."""
        return len(self._visits)

    @property
    def num_running(self) -> int:
        """Number of them that have a run waiting or going on."""
        return sum(visit.is_running for visit in self._visits)

    def begin(self, *, final: bool = False) -> None:
        """Says that it drains; once that is `final`, it cannot be undone."""
        self._is_final = self._is_final or final
        self._set(True)

    def undo(self) -> None:
        """Says that it takes sessions again. Raises RstitchError where the process is about to end."""
        if self._is_final:
            what = "this worker was told to end: it takes no sessions again."
            remedy = "Start it again once it has ended."
            raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "WORKER_ENDING", what, field="undo", remedy=remedy)
        self._set(False)

    @contextmanager
    def visit(self, visit: Visit) -> Iterator[None]:
        """Counts a call while it is open."""
        self._visits.add(visit)
        self._empty.clear()
        try:
            yield
        finally:
            self._visits.discard(visit)
            if not self._visits:
                self._empty.set()

    async def emptied(self) -> None:
        """Returns once no call is open."""
        await self._empty.wait()

    def _set(self, is_on: bool) -> None:
        changes, self.is_on = self.is_on != is_on, is_on
        if changes:
            self._on_change()
