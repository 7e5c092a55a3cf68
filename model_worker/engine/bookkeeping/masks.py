"""Masks: the tokens that a model is to be without for a run. No torch.

Runs that mask the same tokens have one `Mask` in common, so that a step sees by identity which rows go together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_MASKS = 64  # that are known at once; in a pair of models one is usual, and one per answer the most


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Tokens that cannot be written, and how many of the vocabulary are left."""

    tokens: tuple[int, ...]  # ascending, each once
    num_left: int


class MaskTable:
    """The masks used last. One that was forgotten is made anew: equal masks need not be the same."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._masks: OrderedDict[tuple[int, ...], Mask] = OrderedDict()

    def of(self, tokens: tuple[int, ...]) -> Mask:
        """Returns the mask of a request's `masked_tokens`, which were checked, in any order."""
        mask = self._masks.get(tokens)
        if mask is None:
            once = tuple(sorted(set(tokens)))
            mask = self._masks[tokens] = Mask(once, self._vocab_size - len(once))
            if len(self._masks) > MAX_MASKS:
                self._masks.popitem(last=False)
        self._masks.move_to_end(tokens)
        return mask
