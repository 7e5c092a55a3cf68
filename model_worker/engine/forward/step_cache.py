"""What a model and its layers are given as caches. The model's says where tokens stand and keeps nothing: attention
writes to pages.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import Cache


def cache_keyword(module: Any) -> str:
    """Returns the name by which a model's forward takes its cache: releases of transformers differ."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


class StepCache(Cache):
    """A cache for one forward of a batch, [1, tokens], whose tokens belong to several sessions.

    Where a model counts positions itself, as `torch.arange(tokens) + cache.get_seq_length()`, it is told a number per
    token (int64 [tokens]), so that each gets the position in its own session.
    """

    is_compileable = False
    layers: list[Any]

    def __init__(self, positions: Tensor) -> None:
        self.layers = []
        self._before = positions[0] - torch.arange(positions.shape[1], device=positions.device)

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self._before

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states


class RowsCache(Cache):
    """A cache that has one layer only, number `layer_idx`, for sessions that a layer with states computes at once."""

    is_compileable = False

    def __init__(self, layer_idx: int, layer: Any) -> None:
        self.layers: list[Any] = [None] * layer_idx + [layer]
