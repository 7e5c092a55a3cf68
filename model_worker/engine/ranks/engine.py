"""The engine of a model that is divided among ranks, as rank 0 has it: sessions, schedules and tokens are its alone."""

from __future__ import annotations

from collections.abc import Callable

from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.runner import Runner
from model_worker.engine.ranks.group import Ranks
from model_worker.engine.ranks.runner import LeadingRunner
from model_worker.engine.types import Limits


class RankedEngine(Engine):
    """An engine whose steps the other ranks compute, too, each with its part of the model; they `follow`.

    The constructor raises UnsupportedModel as `Engine` does, and RanksLost if another rank is gone.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        limits: Limits,
        ranks: Ranks,
        on_progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        self._ranks = ranks
        super().__init__(loaded, limits, on_progress)

    @property
    def num_cards(self) -> int:
        return self._ranks.size

    def _new_runner(self, loaded: LoadedModel, on_progress: Callable[[int, int], None]) -> Runner:
        return LeadingRunner(loaded, self.limits, self._ranks, on_progress)
