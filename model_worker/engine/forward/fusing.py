"""Puts fused kernels into a model: norms, gated MLPs, and the way from a layer's input to its queries and cache.

Nothing here is a list of model classes. The model runs once on a few tokens; a part is replaced where the kernels give
what its own forward gave there, and left alone where they do not. Matrices that multiply the same input become one,
of which the module's own are views from then on: it takes no memory, and the module's own forward stays right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention_tables import BlockTableAttention
from model_worker.engine.forward.dispatch import use_attention
from model_worker.engine.forward.fused_modules import FusedAttention, FusedMlp, leave, linears, matching_norm, merged
from model_worker.engine.forward.replaced import replace_forward

_TOKENS = (1, 5, 2, 7)
# Largest difference that rounding makes, relative to the largest entry.
_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@dataclass(slots=True)
class Fused:
    """How many parts of each kind were replaced."""

    norms: int = 0
    attentions: int = 0
    mlps: int = 0

    def __str__(self) -> str:
        return f"{self.norms} norms, {self.attentions} attentions, {self.mlps} MLPs"

    def __bool__(self) -> bool:
        return self.norms + self.attentions + self.mlps > 0


@dataclass(slots=True)
class _Calls:
    """What a run of the model showed of each part."""

    inputs: dict[nn.Module, dict[str, Any]] = field(default_factory=dict)  # keywords; the first positional is "x"
    outputs: dict[nn.Module, Any] = field(default_factory=dict)
    asked: dict[nn.Module, tuple[Tensor, Tensor, Tensor, dict[str, Any]]] = field(default_factory=dict)
    attended: dict[nn.Module, Tensor] = field(default_factory=dict)


def fuse(module: Any, attention: BlockTableAttention) -> Fused:
    """Replaces what can be; the model's attention is `attention` afterwards. Raises UnsupportedModel if a run fails."""
    fused = Fused()
    calls = _observe(module)
    use_attention(module, attention.forward)
    heads_norms: set[nn.Module] = set()
    with torch.no_grad():
        for part, (_, _, _, options) in calls.asked.items():
            if (own := _fused_attention(part, calls, attention, options)) is not None:
                replace_forward(part, own.forward)
                heads_norms.update(child for name, child in part.named_children() if name.endswith("norm"))
                fused.attentions += 1
        for part, output in calls.outputs.items():
            given = calls.inputs[part].get("x")
            if not isinstance(given, Tensor) or part in heads_norms or part in calls.asked:
                continue
            if (norm := matching_norm(part, given, output)) is not None:
                replace_forward(part, norm)
                fused.norms += 1
            elif (mlp := _fused_mlp(part, given, output)) is not None:
                replace_forward(part, mlp.forward)
                fused.mlps += 1
    return fused


def _observe(module: Any) -> _Calls:
    calls = _Calls()

    def attend(
        part: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        calls.asked[part] = query, key, value, options
        size = (1, query.shape[2], query.shape[1], value.shape[3])
        calls.attended[part] = torch.randn(size, dtype=query.dtype, device=query.device)
        return calls.attended[part], None

    use_attention(module, attend)
    with _hooked(module, calls), torch.no_grad():
        try:
            device = next(module.parameters()).device
            # Far apart: some models scale queries by their position, from some position on.
            most = getattr(module.config.get_text_config(), "max_position_embeddings", 1 << 15)
            positions = torch.tensor([[0, 1, most // 3, most - 1]], device=device)
            module(input_ids=torch.tensor([_TOKENS], device=device), position_ids=positions, use_cache=False)
        except Exception as error:  # whatever its code raises
            raise UnsupportedModel(f"{type(module).__name__}: its parts cannot be looked at: {error}") from error
    return calls


@contextmanager
def _hooked(module: nn.Module, calls: _Calls) -> Iterator[None]:
    def note(part: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        calls.inputs[part] = ({"x": positional[0]} if positional else {}) | keywords
        calls.outputs[part] = output

    hooks = [
        part.register_forward_hook(note, with_kwargs=True)
        for part in module.modules()
        # Whoever has hooks already does something that a replaced forward might not.
        if not (part._forward_hooks or part._forward_pre_hooks)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _fused_attention(
    part: nn.Module, calls: _Calls, attention: BlockTableAttention, options: dict[str, Any]
) -> FusedAttention | None:
    inputs = calls.inputs.get(part, {})
    hidden, rotation = inputs.get("hidden_states"), inputs.get("position_embeddings")
    matrices, output = linears(part, ("q_proj", "k_proj", "v_proj")), calls.outputs.get(part)
    if matrices is None or not isinstance(getattr(part, "o_proj", None), nn.Module):
        return None
    if not (isinstance(hidden, Tensor) and isinstance(rotation, tuple) and isinstance(output, tuple)):
        return None
    query, key, value, _ = calls.asked[part]
    # Before anything is decided by numbers, which differ from rank to rank of a divided model: this adds up all ranks'.
    left = leave(part, calls.attended[part])
    norms = []
    for name in ("q_norm", "k_norm"):
        if (child := getattr(part, name, None)) is not None:
            given = calls.inputs.get(child, {}).get("x")
            if given is None or (norm := matching_norm(child, given, calls.outputs[child])) is None:
                return None
            norms.append(norm.norm)
    if norms and (len(norms) != 2 or norms[0].weight.shape != (query.shape[3],) or _differ(norms)):
        return None
    heads_norms = (norms[0], norms[1]) if norms else None
    own = FusedAttention(part, merged(matrices), attention, options.get("scaling"), heads_norms, options.get("s_aux"))
    q, k, v = own.project(hidden, rotation, slots=None)
    same = (
        _equal(q.transpose(0, 1)[None], query)
        and _equal(k.transpose(0, 1)[None], key)
        and _equal(v.transpose(0, 1)[None], value)
        and _equal(left, output[0])
    )
    return own if same else None


def _differ(norms: list[Any]) -> bool:
    first, second = norms
    return (first.eps, first.is_offset, first.is_late) != (second.eps, second.is_offset, second.is_late)


def _fused_mlp(part: nn.Module, given: Tensor, output: Any) -> FusedMlp | None:
    matrices = linears(part, ("gate_proj", "up_proj"))
    if matrices is None or not isinstance(getattr(part, "down_proj", None), nn.Module):
        return None
    if not isinstance(output, Tensor):
        return None
    is_gelu = _is_gelu(getattr(part, "act_fn", None), given.device)
    if is_gelu is None:
        return None
    own = FusedMlp(part, merged(matrices), is_gelu)
    return own if _equal(own.forward(given), output) else None


def _is_gelu(activation: Any, device: torch.device) -> bool | None:
    """Says which of the kernels' activations it is (GELU by tanh, else SiLU); None for neither.

    In 16 bits the activations of a few tokens do not tell GELU from its approximations.
    """
    x = torch.linspace(-8, 8, 257, device=device)
    for is_gelu, y in ((False, nn.functional.silu(x)), (True, nn.functional.gelu(x, approximate="tanh"))):
        if callable(activation) and torch.allclose(activation(x), y, rtol=0, atol=1e-5):
            return is_gelu
    return None


def _equal(ours: Tensor, own: Tensor) -> bool:
    if ours.shape != own.shape or ours.dtype != own.dtype:
        return False
    difference, size = (ours.double() - own.double()).abs().max(), own.double().abs().max()
    return bool(difference <= _TOLERANCE[own.dtype] * size)
