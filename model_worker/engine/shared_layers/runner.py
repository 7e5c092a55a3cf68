"""Runs a part of a model with an exit: the SLM, all layers, or those above the exit on what the SLM has left there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model_worker.engine.bookkeeping.scheduler import Row
from model_worker.engine.forward.loader import LoadedModel, use_attention
from model_worker.engine.forward.runner import Outcome, Runner
from model_worker.engine.shared_layers.model import Exit
from model_worker.engine.shared_layers.scheduler import ExitRun, Part
from model_worker.engine.types import Limits


class ExitRunner(Runner):
    """One KV cache for both roles, and the hidden states after the exit's layer of the tokens that the SLM computed."""

    def __init__(self, loaded: LoadedModel, exit_: Exit, limits: Limits) -> None:
        self._exit = exit_
        self._part = Part.ALL
        super().__init__(loaded, limits)
        size = (self._cache.num_slots, loaded.module.config.hidden_size)
        # Only slots that were written are read; on a CPU the others take no memory.
        self._below = torch.empty(size, dtype=loaded.dtype, device=loaded.device)
        exit_.tail.register_forward_pre_hook(self._keep_below)
        for module in (exit_.module, exit_.upper):
            use_attention(module, self._attention.forward)

    def run(self, rows: list[Row]) -> Outcome | None:
        """As `Runner.run`; all rows are of one part."""
        run = rows[0].run
        self._part = run.part if isinstance(run, ExitRun) else Part.ALL
        return super().run(rows)

    def _model(self, ids: Tensor) -> tuple[Any, dict[str, Tensor]]:
        if self._part is Part.EXIT:
            return self._exit.module, {"input_ids": ids}
        if self._part is Part.UPPER:
            return self._exit.upper, {"inputs_embeds": self._below.index_select(0, self._slots)[None]}
        return super()._model(ids)

    def _keep_below(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """The tail's input is the hidden state after the exit's layer, of all tokens of the batch."""
        self._below.index_copy_(0, self._slots, inputs[0][0])
