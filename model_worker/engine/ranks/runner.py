"""Runs a rank's part of every step. Rank 0 tells what it does to its device before it does it; the others do the same.

Whatever is done while a runner is made (attention is tried, steps are captured), all ranks do alike and in the same
order, so it is not told. From then on, nothing reaches a device that rank 0 was not told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.errors import RanksLost, UnsupportedModel
from model_worker.engine.forward.batch import Batch, batch_order
from model_worker.engine.forward.compiled import Step as CompiledStep
from model_worker.engine.forward.graphs import Graphs, OnProgress
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.outcome import Outcome, nothing
from model_worker.engine.forward.runner import Launched, Runner
from model_worker.engine.forward.sampling import Choices
from model_worker.engine.forward.transfer import Later
from model_worker.engine.ranks.group import Ranks
from model_worker.engine.ranks.telling import Copy, Step, Told, Wipe, packed
from model_worker.engine.types import Limits


class RankRunner(Runner):
    """A runner of one rank: its KV cache has the heads of this rank."""

    def __init__(
        self, loaded: LoadedModel, limits: Limits, ranks: Ranks, on_progress: OnProgress = lambda done, of: None
    ) -> None:
        self._ranks = ranks
        super().__init__(loaded, limits, on_progress)
        # What is not finite in one rank's cache is every rank's business.
        self._agree = ranks.sum

    @property
    def path(self) -> str:
        """Says, too, among how many ranks the model is divided."""
        return f"{super().path}, tp: {self._ranks.size}"

    def _make_graphs(self, on_progress: OnProgress) -> Graphs | None:
        graphs = super()._make_graphs(on_progress)
        if self._why_no_graphs:  # another rank may have captured its own, and cannot be asked: it is in another step
            name = type(self._loaded.module).__name__
            raise UnsupportedModel(
                f"{name}: a model that is divided goes{self._why_no_graphs}; start with --graphs off"
            )
        return graphs

    def _make_compiled(self) -> CompiledStep | None:
        # Compiled code cannot wait for other ranks between its layers.
        if self._limits.compile == "auto" and self._loaded.device.type == "cpu":
            self._compiling = ", not compiled: its layers wait for other ranks"
        return None


class LeadingRunner(RankRunner):
    """Rank 0's: it tells, computes, and chooses tokens. Raises RanksLost once the ranks may no longer be in step."""

    def launch(self, rows: list[Row], *, captured: bool = True) -> Launched:
        rows.sort(key=batch_order)
        self._tell(Step(rows, captured))
        try:
            return super().launch(rows, captured=captured)
        except (RanksLost, torch.AcceleratorError):
            raise
        except Exception as error:  # whatever a model raises: the others wait for sums that will not come
            raise RanksLost(f"a step failed at rank 0, {type(error).__name__}: {error}") from error

    def wipe(self, pages: Sequence[int]) -> None:
        if pages:
            self._tell(Wipe(pages))
        super().wipe(pages)

    def copy_pages(self, pages: Mapping[int, int]) -> None:
        if pages:
            self._tell(Copy(pages))
        super().copy_pages(pages)

    def _tell(self, told: Told) -> None:
        self._ranks.tell(packed(told))


class FollowingRunner(RankRunner):
    """Another rank's: it computes what is told, and leaves what comes of it to rank 0."""

    def follow(self, told: Told) -> None:
        """Does what rank 0 does, and waits until it is done."""
        if isinstance(told, Wipe):
            self.wipe(told.pages)
        elif isinstance(told, Copy):
            self.copy_pages(told.pages)
        else:
            self.run(list(told.rows), captured=told.captured)

    def _choose(
        self, batch: Batch, measured: Later[Choices] | None, logits: Tensor, hidden: Tensor, index: Sequence[int]
    ) -> Later[Outcome | None]:
        return nothing
