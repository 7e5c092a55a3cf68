"""Which masks a model would make, told by what transformers asks of its mask interface, and which layer gets which.

A mask is a function of two positions. It is compared with plain causal attention, with a window and with chunks where
these differ; anything else has no name here, and a layer that gets it is refused. In place of a mask the model gets a
tensor that is filled with the mask's number: whatever the model does with it in between, a layer that is given nothing
but that number is given that mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model_worker.engine.forward.reach import EVERYTHING, Reach


class SeenMasks:
    """The masks that a model has asked for in one forward."""

    def __init__(self) -> None:
        self._asked: list[tuple[Callable[..., Any], int]] = []

    def make(
        self,
        *,
        mask_function: Callable[..., Any],
        q_length: int,
        kv_length: int,
        local_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: Any = None,
        **_: Any,
    ) -> Tensor:
        """Notes the mask that is asked for; returns a tensor of its number, [1, 1, q_length, kv_length]."""
        self._asked.append((mask_function, local_size or 0))
        number = float(len(self._asked))
        return torch.full((1, 1, int(q_length), int(kv_length)), number, dtype=dtype, device=device)

    def reach_of(self, mask: Tensor | None) -> Reach | None:
        """Returns what a layer sees that is given `mask`; None if that is no mask of the ones that have names."""
        # The model has asked for none: attention by itself is causal. Or it has no weights, and so no numbers.
        if mask is None or (isinstance(mask, Tensor) and mask.is_meta):
            return EVERYTHING
        numbers = torch.unique(mask) if isinstance(mask, Tensor) else torch.empty(0)
        number = int(numbers[0]) if len(numbers) == 1 else 0
        if not (0 < number <= len(self._asked) and number == float(numbers[0])):
            return None
        function, size = self._asked[number - 1]
        candidates = [EVERYTHING, *([Reach(window=size), Reach(chunk=size)] if size > 0 else [])]
        return next((reach for reach in candidates if _is_that(function, reach, size)), None)


def _is_that(function: Callable[..., Any], reach: Reach, size: int) -> bool:
    """Says whether a mask function lets a token see just what the reach does, wherever they could differ."""
    zero = torch.tensor(0)
    size = max(size, 3)
    positions = sorted({0, 1, 2, size - 1, size, size + 1, 2 * size - 1, 2 * size, 2 * size + 1, 3 * size + 5})
    try:
        for query in positions:
            for key in {
                0,
                query,
                query + 1,
                *(p + d for p in (query, *positions) for d in (-size - 1, -size, 1 - size, 0)),
            }:
                if key < 0:
                    continue
                seen = bool(function(zero, zero, torch.tensor(query), torch.tensor(key)))
                if seen != (reach.first(query) <= key <= query):
                    return False
    except (IndexError, TypeError, ValueError, RuntimeError):  # it looks at tokens, or at a batch
        return False
    return True
