"""Which layers the next forward goes through, for a model with an exit. No torch.

A session of such a model counts its tokens twice: those that all layers have computed, and those that the layers below
the exit have. What the LLM has computed the SLM need not; what the SLM has, the LLM goes on with above the exit.
"""

from __future__ import annotations

from enum import Enum

from model_worker.engine.bookkeeping.scheduler import Run, Scheduler
from model_worker.engine.bookkeeping.session import SessionTable
from model_worker.engine.types import Limits


class Part(Enum):
    """The layers that a row goes through: all, those below the exit, those above it."""

    ALL = "all"
    EXIT = "exit"
    UPPER = "upper"


class ExitRun(Run):
    """A run of one of the two roles. The SLM's are at the exit; the LLM's begin above it where the SLM has been."""

    __slots__ = ()

    @property
    def part(self) -> Part:
        """What its next row goes through."""
        if self.request.exit:
            return Part.EXIT
        return Part.UPPER if self.session.num_shallow > self.session.num_computed else Part.ALL

    @property
    def num_computed(self) -> int:
        """Tokens of its session that its role need not compute."""
        return self.session.num_shallow if self.request.exit else self.session.num_computed

    @property
    def num_pending(self) -> int:
        """Tokens that its next row may have: through one part only."""
        end = self.session.num_shallow if self.part is Part.UPPER else self.session.held
        return end - self.num_computed

    def computed(self, num_tokens: int) -> None:
        """Its row of so many tokens is computed."""
        if self.request.exit:
            self.session.exit_computed = self.session.num_shallow + num_tokens
        else:
            self.session.num_computed += num_tokens


class ExitScheduler(Scheduler):
    """Batches of rows that go through the same layers. Parts that are waited for take turns, so none waits for ever."""

    def __init__(self, table: SessionTable, limits: Limits) -> None:
        super().__init__(table, limits)
        self._turns = list(Part)  # the one whose turn was longest ago first

    def _in_order(self) -> list[Run]:
        runs = super()._in_order()
        parts = {run.part for run in runs if isinstance(run, ExitRun)}
        part = next((part for part in self._turns if part in parts), Part.ALL)
        self._turns.remove(part)
        self._turns.append(part)
        return [run for run in runs if isinstance(run, ExitRun) and run.part is part]
