"""Runs a step of a model with shared layers: the SLM, all layers, or the upper ones on what the SLM has left there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.forward.dispatch import use_attention
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.model import Model
from model_worker.engine.forward.runner import Launched, Runner
from model_worker.engine.shared_layers.model import SharedModel
from model_worker.engine.shared_layers.scheduler import Layers, SharedRun
from model_worker.engine.types import Limits


@dataclass(slots=True)
class _Below:
    """The hidden states that the SLM left after the shared layers."""

    hidden: Tensor  # [slots of the KV cache, hidden_size]: a token has its own under the number of its slot
    slots: Tensor  # of the batch's tokens, int64 on the device


class SharedLayersModel(Model):
    """The parts of a model with shared layers; `layers` says which of them the next forward goes through."""

    def __init__(self, loaded: LoadedModel, shared: SharedModel, vocab_size: int, num_slots: int) -> None:
        super().__init__(loaded, vocab_size)
        self.layers = Layers.ALL
        self._shared = shared
        size = (num_slots, loaded.module.config.hidden_size)
        # Only slots that were written are read; on a CPU the others take no memory.
        hidden = torch.empty(size, dtype=loaded.dtype, device=loaded.device)
        below = self._below = _Below(hidden, torch.empty(0, dtype=torch.int64))

        def keep(_: object, inputs: tuple[Tensor, ...]) -> None:
            """Stores the tail's input: the hidden states after the shared layers, for all tokens of the batch."""
            below.hidden.index_copy_(0, below.slots, inputs[0][0])

        shared.tail.register_forward_pre_hook(keep)

    @property
    def last_layer(self) -> int:
        return self._shared.num_layers - 1 if self.layers is Layers.SHARED else super().last_layer

    def begin(self, slots: Tensor) -> None:
        self._below.slots = slots

    def _part(self, ids: Tensor, positions: Tensor) -> tuple[Any, dict[str, Any]]:
        if self.layers is Layers.SHARED:
            return self._shared.slm, {"input_ids": ids}
        if self.layers is Layers.UPPER:
            return self._shared.upper, {"inputs_embeds": self._below.hidden.index_select(0, self._below.slots)[None]}
        return super()._part(ids, positions)


class SharedRunner(Runner):
    """One KV cache for both roles, and the hidden states that the SLM left after the shared layers."""

    _model: SharedLayersModel

    def __init__(self, loaded: LoadedModel, shared: SharedModel, limits: Limits) -> None:
        self._shared = shared
        # Which layers a step goes through, and where the hidden states below lie, is no part of a captured step.
        super().__init__(loaded, replace(limits, graphs="off", compile="off"))
        for module in (shared.slm, shared.upper):
            self._replace_parts(module)
            use_attention(module, self._attention.forward)

    def launch(self, rows: list[Row], *, captured: bool = True) -> Launched:
        """Launches rows that go through the same layers; otherwise as `Runner.launch`."""
        run = rows[0].run
        self._model.layers = run.layers if isinstance(run, SharedRun) else Layers.ALL
        return super().launch(rows, captured=captured)

    def _make_model(self) -> SharedLayersModel:
        return SharedLayersModel(self._loaded, self._shared, self._limits.vocab_size, self._cache.num_slots)
