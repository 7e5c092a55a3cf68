"""A `transformers` model as the oracle asks it: each token is a whole forward over all tokens before it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import torch

from evals.algorithm.reference import Proposal


class UncachedModel:
    """A causal LM without cache or batch. What is compared is float32, as it is served.

    It does not have the `masked` tokens: it never writes them, and its entropy is that of the others.
    """

    def __init__(self, module: Any, vocab_size: int, masked: Sequence[int] = ()) -> None:
        self._module = module
        self._vocab_size = vocab_size
        self._masked = list(masked)

    @torch.inference_mode()
    def next(self, tokens: Sequence[int]) -> Proposal:
        """The most probable next token among the first `vocab_size`, with every signal."""
        ids = torch.tensor([list(tokens)])
        logits = self._module(ids, use_cache=False, logits_to_keep=1).logits[0, -1, : self._vocab_size]
        if logits.dtype != torch.float64:
            logits = logits.float()
        logits[self._masked] = -torch.inf
        probabilities = torch.softmax(logits, dim=-1)
        entropy = float(torch.special.entr(probabilities).sum() / math.log(self._vocab_size - len(self._masked)))
        first, second = probabilities.topk(2).values.tolist()
        served = array("f", (min(max(entropy, 0.0), 1.0), 1 - first, 1 - (first - second)))
        return Proposal(int(logits.argmax()), served[0], served[1], served[2], first)

    @torch.inference_mode()
    def hidden_state(self, tokens: Sequence[int]) -> bytes:
        """What the LM head gets for the last token: float32 bytes, [hidden_size]."""
        states = self._module.base_model(torch.tensor([list(tokens)]), use_cache=False).last_hidden_state
        raw: bytes = states[0, -1].float().numpy().tobytes()
        return raw
