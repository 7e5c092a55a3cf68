"""Forwards by fused kernels that stand in for those of a model's parts. Whether one may is decided in fusing.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_worker.engine.forward.attention_tables import BlockTableAttention
from model_worker.engine.forward.kernels.layers import Norm, gated, rms_norm, rope_and_write
from model_worker.engine.forward.quantizing import is_plain

# How far a norm may be from the module's own, entry by entry, in units of the last place.
_ULPS = {torch.float32: 16.0, torch.bfloat16: 2.0, torch.float16: 2.0}

Weights = tuple[Tensor, Tensor | None]  # a matrix [outputs, inputs] and its bias [outputs]


def linears(part: nn.Module, names: Sequence[str]) -> list[nn.Linear] | None:
    """Returns the plain matrices of these names; None if one is none, is watched by a hook, or has other tensors."""
    found = [getattr(part, name, None) for name in names]
    plain = [each for each in found if is_plain(each) and not each._forward_hooks and not each._forward_pre_hooks]
    if len(plain) < len(names) or len({each.bias is None for each in plain}) > 1:
        return None
    return plain


def merged(matrices: Sequence[nn.Linear]) -> Weights:
    """Returns matrices of one input as one, of which their own weights are views from now on."""
    weight = torch.cat([each.weight for each in matrices])
    bias = torch.cat([each.bias for each in matrices]) if matrices[0].bias is not None else None
    begin = 0
    for each in matrices:
        end = begin + each.out_features
        each.weight.data = weight[begin:end]
        if bias is not None:
            each.bias.data = bias[begin:end]
        begin = end
    return weight, bias


class FusedNorm:
    """A root mean square norm."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.norm)


def matching_norm(part: nn.Module, given: Tensor, output: Any) -> FusedNorm | None:
    """Returns the norm that gives the output of a module that is one; None if none does."""
    parameters = dict(part.named_parameters())
    eps = getattr(part, "variance_epsilon", getattr(part, "eps", None))
    if list(parameters) != ["weight"] or not isinstance(eps, float) or not isinstance(output, Tensor):
        return None
    weight = parameters["weight"].data
    if weight.shape != given.shape[-1:] or output.dtype != given.dtype or output.shape != given.shape:
        return None
    for is_offset in (False, True):
        for is_late in (False, True):
            norm = Norm(weight, eps, is_offset, is_late)
            difference = (rms_norm(given, norm).double() - output.double()).abs()
            if bool((difference <= _ULPS[given.dtype] * torch.finfo(given.dtype).eps * output.double().abs()).all()):
                return FusedNorm(norm)
    return None


class FusedMlp:
    """down(act(gate(x)) * up(x)), gate and up as one matrix."""

    def __init__(self, part: nn.Module, weights: Weights, is_gelu: bool) -> None:
        self._down = part.down_proj
        self._weights = weights
        self._is_gelu = is_gelu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._down(gated(functional.linear(x, *self._weights), self._is_gelu))  # type: ignore[operator]
        return out


def leave(part: nn.Module, attended: Tensor) -> Tensor:
    """Returns a layer's output, [1, tokens, hidden_size], of its attention's, [1, tokens, heads, value_dim]."""
    out: Tensor = part.o_proj(attended.flatten(2))  # type: ignore[operator]
    return out


class FusedAttention:
    """From hidden states to attention's output: one matrix, one kernel up to the cache, the backend, one matrix."""

    def __init__(
        self,
        part: nn.Module,
        weights: Weights,
        attention: BlockTableAttention,
        scaling: float | None,
        norms: tuple[Norm, Norm] | None,
        sinks: Tensor | None,
    ) -> None:
        self._part = part
        self._weights = weights
        self._attention = attention
        self._scaling = scaling
        self._norms = norms
        self._sinks = sinks
        self._layer = int(part.layer_idx)  # type: ignore[arg-type]
        cache, shape = attention.cache, attention.cache.shapes[self._layer]
        self._cache = cache.keys[self._layer], cache.values[self._layer]
        keys, values = shape.num_kv_heads * shape.key_dim, shape.num_kv_heads * shape.value_dim
        self._widths = [weights[0].shape[0] - keys - values, keys, values]

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *_: Any, **__: Any
    ) -> tuple[Tensor, None]:
        """Serves the layer's call, [1, tokens, hidden_size], by the tables of the present step."""
        query = self._rotate(
            hidden_states, position_embeddings, self._cache, self._attention.tables_of(self._layer).slots
        )
        return leave(self._part, self._attention.attend(self._layer, query, self._scaling, self._sinks)[None]), None

    def project(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], slots: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values [tokens, heads, dim] without touching the cache."""
        num_tokens = hidden.shape[1]
        keys, values = (each[:num_tokens].clone() for each in self._cache)
        at = torch.arange(num_tokens, device=hidden.device) if slots is None else slots
        return self._rotate(hidden, rotation, (keys, values), at), keys, values

    def _rotate(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], cache: tuple[Tensor, Tensor], slots: Tensor
    ) -> Tensor:
        q, k, v = functional.linear(hidden[0], *self._weights).split(self._widths, dim=-1)
        cos, sin = rotation
        return rope_and_write(q, k, v, (cos[0], sin[0]), cache, slots, self._norms)
