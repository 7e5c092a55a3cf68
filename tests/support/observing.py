"""What transformers say along given tokens: the oracle of observing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support.pairs import VOCAB_SIZE


@dataclass(frozen=True)
class Along:
    """By position from `start` on: entropy in [0, 1], most probable token, last hidden state."""

    start: int
    entropies: Tensor
    tokens: list[int]
    hidden: Tensor

    def above(self, bound: float) -> list[int]:
        """The positions with an entropy over the bound."""
        return [self.start + place for place, entropy in enumerate(self.entropies.tolist()) if entropy > bound]


def along(model: Any, tokens: Sequence[int], start: int = 1, masked: Iterable[int] = ()) -> Along:
    """One plain forward over all tokens, without a cache."""
    left = torch.tensor([token for token in range(VOCAB_SIZE) if token not in set(masked)])
    states: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0, start - 1 : -1, left]
    hook.remove()
    entropies = torch.special.entr(logits.softmax(-1)).sum(-1) / math.log(len(left))
    return Along(start, entropies, left[logits.argmax(-1)].tolist(), states[0][0, start - 1 : -1])
