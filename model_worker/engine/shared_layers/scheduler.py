"""Which layers the next forward goes through, for a model whose first layers are the SLM. No torch.

A session of such a model counts its tokens twice: those that all layers have computed, and those that the shared layers
have. What the LLM has computed the SLM need not; where the SLM has been, the LLM goes on in the layers above.
"""

from __future__ import annotations

from enum import Enum

from model_worker.engine.bookkeeping.runs import Run
from model_worker.engine.bookkeeping.scheduler import Scheduler
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.types import Limits


class Layers(Enum):
    """The layers that a row goes through: all, the shared ones and the SLM's head, or those above."""

    ALL = "all"
    SHARED = "shared"
    UPPER = "upper"


class SharedRun(Run):
    """A run of one of the two roles: the SLM's go through the shared layers, the LLM's need not where the SLM was."""

    # What the next row of each role goes through:
    #
    #   tokens     0 ............ num_computed ............ num_shallow ............ held
    #   SLM        has KV                       has KV                   SHARED
    #   LLM        has KV                       UPPER                    ALL

    __slots__ = ()

    @property
    def layers(self) -> Layers:
        """What its next row goes through."""
        if self.request.shallow:
            return Layers.SHARED
        return Layers.UPPER if self.session.num_shallow > self.session.num_computed else Layers.ALL

    @property
    def num_computed(self) -> int:
        return self.session.num_shallow if self.request.shallow else self.session.num_computed

    @property
    def num_pending(self) -> int:
        """Tokens that its next row may have: a row goes through one part of the model only."""
        end = self.session.num_shallow if self.layers is Layers.UPPER else self.session.held
        return end - self.num_computed

    @property
    def fills_pages(self) -> bool:
        return not self.request.shallow  # what others take over has been through all layers

    def computed(self, num_tokens: int) -> None:
        if self.request.shallow:
            self.session.shallow_computed = self.session.num_shallow + num_tokens
        else:
            self.session.num_computed += num_tokens


class SharedScheduler(Scheduler):
    """Batches of rows that go through the same layers. Parts that are waited for take turns, so none waits for ever."""

    def __init__(self, table: SessionTable, limits: Limits) -> None:
        super().__init__(table, limits)
        self._turns = list(Layers)  # the one whose turn was longest ago first

    def _in_order(self) -> list[Run]:
        runs = super()._in_order()
        waited_for = {run.layers for run in runs if isinstance(run, SharedRun)}
        layers = next((layers for layers in self._turns if layers in waited_for), Layers.ALL)
        self._turns.remove(layers)
        self._turns.append(layers)
        return [run for run in runs if isinstance(run, SharedRun) and run.layers is layers]
