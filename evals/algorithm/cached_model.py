"""A plain `transformers` model with the cache of one conversation: the one place here that names a cache's argument.

It knows neither engine nor service, so what is measured against it owes nothing to our own path.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from evals.algorithm.reference import Proposal


class CachedModel:
    """One conversation in a causal LM, with the model's own cache and its own default attention."""

    def __init__(self, module: Any, vocab_size: int | None = None) -> None:
        self._module = module
        self._vocab_size = vocab_size or module.config.vocab_size
        self._device = next(module.parameters()).device
        # transformers 5.24 renamed the argument, and the old name warns since; earlier versions know only that one.
        self._argument = "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"
        self._cache = DynamicCache(config=module.config)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @torch.inference_mode()
    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        """Feeds at least one token. Returns the logits after the last, [num_logits], on the model's device."""
        ids = torch.tensor([list(tokens)], device=self._device)
        logits: torch.Tensor = self._module(
            ids, use_cache=True, logits_to_keep=1, **{self._argument: self._cache}
        ).logits
        self._length += len(tokens)
        return logits[0, -1]

    def crop(self, length: int) -> None:
        if length < self._length:
            self._cache.crop(length - self._length)  # a negative number counts from the end, windows included
            self._length = length

    def next(self, tokens: Sequence[int]) -> Proposal:
        """Feeds what is missing of `tokens`. Proposes one of the first `vocab_size`, with no signal but the entropy."""
        assert self._length < len(tokens), "at least one token must be fed for a distribution"
        logprobs = self.append(tokens[self._length :])[: self._vocab_size].float().log_softmax(-1)
        entropy = float(torch.special.entr(logprobs.exp()).sum()) / math.log(self._vocab_size)
        return Proposal(int(logprobs.argmax()), entropy)
