"""Runs a step of a model with shared layers: the SLM, all layers, or the upper ones on what the SLM has left there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model_worker.engine.bookkeeping.scheduler import Row
from model_worker.engine.forward.invariant import make_invariant
from model_worker.engine.forward.loader import LoadedModel, use_attention
from model_worker.engine.forward.runner import Outcome, Runner
from model_worker.engine.shared_layers.model import SharedModel
from model_worker.engine.shared_layers.scheduler import Layers, SharedRun
from model_worker.engine.types import Limits


class SharedRunner(Runner):
    """One KV cache for both roles, and the hidden states that the SLM left after the shared layers."""

    def __init__(self, loaded: LoadedModel, shared: SharedModel, limits: Limits) -> None:
        self._shared = shared
        self._layers = Layers.ALL
        super().__init__(loaded, limits)
        # One hidden state per slot of the KV cache, so that a token has its own under the same number.
        size = (self._cache.num_slots, loaded.module.config.hidden_size)
        # Only slots that were written are read; on a CPU the others take no memory.
        self._hidden_below = torch.empty(size, dtype=loaded.dtype, device=loaded.device)
        shared.tail.register_forward_pre_hook(self._keep_hidden_below)
        for module in (shared.slm, shared.upper):
            if limits.batch_invariant:
                make_invariant(module, limits.context_length)
            use_attention(module, self._attention.forward)

    def run(self, rows: list[Row]) -> Outcome | None:
        """Computes rows that go through the same layers; otherwise as `Runner.run`."""
        run = rows[0].run
        self._layers = run.layers if isinstance(run, SharedRun) else Layers.ALL
        return super().run(rows)

    def _model(self, ids: Tensor) -> tuple[Any, dict[str, Tensor]]:
        if self._layers is Layers.SHARED:
            return self._shared.slm, {"input_ids": ids}
        if self._layers is Layers.UPPER:
            return self._shared.upper, {"inputs_embeds": self._hidden_below.index_select(0, self._slots)[None]}
        return super()._model(ids)

    def _keep_hidden_below(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Stores the tail's input: the hidden states after the shared layers, for all tokens of the batch."""
        self._hidden_below.index_copy_(0, self._slots, inputs[0][0])
