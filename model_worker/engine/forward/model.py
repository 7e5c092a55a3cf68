"""Calls the transformers model as it is: token ids to logits, and to the hidden states before the LM head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model_worker.engine.forward.calling import keeps_logits
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.step_cache import StepCache, cache_keyword


class Model:
    """The forward of a loaded model. It holds no KV cache and no graph, so their functions may hold it."""

    def __init__(self, loaded: LoadedModel, vocab_size: int) -> None:
        self._module = loaded.module
        self._vocab_size = vocab_size
        self._num_layers = len(loaded.shapes)
        self._counts_positions = loaded.counts_positions
        self._wants_mask = loaded.wants_mask
        self._cache_keyword = cache_keyword(loaded.module)
        self._keeps_logits = keeps_logits(loaded.module)
        # The LM head's input: the last hidden states of just the rows asked for. The hook holds the list and not this
        # object: the module, which holds the hook, would else be its own owner, and never be freed at once.
        seen = self._seen = [torch.empty(0)]

        def see(_: object, inputs: tuple[Tensor, ...]) -> None:
            seen[0] = inputs[0][0]

        loaded.module.get_output_embeddings().register_forward_pre_hook(see)

    @property
    def last_layer(self) -> int:
        """The number of the last layer that the next forward goes through."""
        return self._num_layers - 1

    def begin(self, slots: Tensor) -> None:
        """Is told the slots of the next batch's tokens, int64 [tokens], before an uncaptured forward."""

    def logits(self, ids: Tensor, positions: Tensor, keep: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Returns logits [kept, vocab_size] and hidden states [kept, hidden_size]; takes int64 [1, tokens] twice.

        `keep`, int64 [kept], says after which tokens; 0: after all.
        """
        module, inputs = self._part(ids, positions)
        kept = {"logits_to_keep": keep} if self._keeps_logits else {}
        logits = module(**inputs, position_ids=positions, use_cache=False, **kept).logits[0]
        if not self._keeps_logits and isinstance(keep, Tensor):
            logits, self._seen[0] = logits[keep], self._seen[0][keep]
        # An LM head may have more rows than the vocabulary, to fill its shape up. No token stands for these rows: they
        # are cut off here, before anything is measured or chosen.
        #
        #   LM head  0 ................ vocab_size ........ num_logits
        #            real tokens        padding, not looked at
        return logits[:, : self._vocab_size], self._seen[0]

    def hidden(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Returns the last hidden states, [tokens, hidden_size], without the LM head: all that catch-up needs."""
        module, inputs = self._part(ids, positions)
        states: Tensor = module.base_model(**inputs, position_ids=positions, use_cache=False)[0][0]
        return states

    def _part(self, ids: Tensor, positions: Tensor) -> tuple[Any, dict[str, Any]]:
        """Returns the module that computes, and its inputs besides the positions."""
        more: dict[str, Any] = {self._cache_keyword: StepCache(positions)} if self._counts_positions else {}
        if self._wants_mask:
            more["attention_mask"] = torch.ones_like(ids)
        return self._module, {"input_ids": ids, **more}
