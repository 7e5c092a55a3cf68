"""Rotary embeddings whose angles depend on how long a sequence is: settled once, so that no batch changes them.

LongRoPE (arXiv 2402.13753) has two sets of angles, for sequences up to the length that the model was trained for and
for longer ones; transformers takes a set by the longest sequence of a batch. Here the context length decides for all
sessions: one that goes beyond the trained length has the long set from its first token on, as `generate` has once a
sequence is that long. YaRN (arXiv 2309.00071) has one set and stretches the context by its factor. Dynamic scaling
changes its angles beyond the length that the config names alone, and no session is served beyond that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model_worker.engine.errors import UnsupportedModel

_LONGROPE, _DYNAMIC = "longrope", "dynamic"
_SETTLED = "settled"  # a type that transformers knows no update for


def longest_context(config: Any) -> int | None:
    """Returns the most tokens that a model is made for, stretched by YaRN where it is; None if its config is silent."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or limit <= 0:  # XLNet's is -1, for any
        return None
    stretched = [
        int(float(part["factor"]) * int(part["original_max_position_embeddings"]))
        for part in _parts(config)
        if part.get("rope_type") == "yarn" and part.get("factor") and part.get("original_max_position_embeddings")
    ]
    return max(int(limit), *stretched) if stretched else int(limit)


def settle_rope(name: str, module: nn.Module, config: Any, context_length: int) -> None:
    """Settles angles that depend on a length by the context's. Raises UnsupportedModel if they depend on a batch."""
    named = getattr(config, "max_position_embeddings", None)
    for part in _parts(config):
        if part.get("rope_type") == _DYNAMIC and (named is None or context_length > named):
            raise UnsupportedModel(f"{name}: rope_type dynamic depends on the longest sequence of a batch")
    for rotary in module.modules():
        kind = getattr(rotary, "rope_type", None)
        if kind in (_LONGROPE, _DYNAMIC):
            if kind == _LONGROPE:
                _settle(rotary, "", config.rope_parameters, context_length, None)
            rotary.rope_type = _SETTLED  # type: ignore[assignment]
        elif isinstance(kind, dict):
            for layer_type in [key for key, value in kind.items() if value == _LONGROPE]:
                _settle(rotary, f"{layer_type}_", config.rope_parameters[layer_type], context_length, layer_type)
                kind[layer_type] = _SETTLED


def has_long_angles(config: Any, context_length: int) -> bool:
    """Says whether a context of so many tokens has other angles than a shorter one: LongRoPE's long set."""
    return any(
        part.get("rope_type") == _LONGROPE and context_length > int(part["original_max_position_embeddings"])
        for part in _parts(config)
    )


def _settle(rotary: Any, prefix: str, parameters: Any, context_length: int, layer_type: str | None) -> None:
    trained = int(parameters["original_max_position_embeddings"])
    angles: torch.Tensor = getattr(rotary, f"{prefix}inv_freq")
    if context_length > trained:
        by_layer = {} if layer_type is None else {"layer_type": layer_type}
        found, _ = ROPE_INIT_FUNCTIONS[_LONGROPE](rotary.config, angles.device, seq_len=trained + 1, **by_layer)
        angles.copy_(found)


def _parts(config: Any) -> list[dict[str, Any]]:
    """Returns the rotary parameters of a config: one dictionary, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
