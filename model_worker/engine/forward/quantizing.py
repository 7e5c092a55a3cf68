"""Weights in fewer bits: the linear layers of a model, quantized once, after it was loaded and before it is looked at.

torchao chooses the numbers, from the weights alone: nothing is calibrated and activations stay as they are. On CUDA its
tensors compute, too. On a CPU these would widen a whole weight for each product; there the numbers go into torch's
packed layouts (quantized_linear.py), but for fp8, for which torch has none. Embeddings, the LM head, norms and biases
stay as they are: the head decides tokens and entropies, and is often the embeddings' own matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.quantized_linear import (
    PackedLinear,
    fits_int4,
    fits_int8,
    packed_int4,
    packed_int8,
)

Format = Literal["none", "int8", "int4", "fp8"]

_GROUPS = (64, 32)  # inputs that share a scale and a zero in 4 bits: the first that divides a weight
LEAST_SHARE = 0.5  # of a model's weights beside embeddings and LM head
_REMEDY = "install it into the worker's environment (pip install 'rstitch[worker,quantize]'), or leave --quantize out"


def quantize(module: Any, kind: Format, device: torch.device) -> str:
    """Quantizes a model in place and moves it to a device, layer by layer, so that this never holds it unquantized.

    Returns what was done, empty if nothing was to be. Raises UnsupportedModel, naming the remedy, if torchao is not
    installed, the format does not run here or in the model's dtype, or most weights are in no linear layer.
    """
    if kind == "none":
        if next(module.parameters()).device != device:  # some libraries' weights cannot be moved at all
            module.to(device)
        return ""
    name, dtype = type(module).__name__, next(module.parameters()).dtype
    if dtype not in (torch.float32, torch.bfloat16):
        raise UnsupportedModel(f"{name}: --quantize {kind} is for bfloat16 and float32, not for {dtype}; give --dtype")
    if kind == "int4" and device.type == "cuda" and dtype != torch.bfloat16:
        raise UnsupportedModel(f"{name}: --quantize int4 computes in bfloat16 on {device}; give --dtype bfloat16")
    _check_installed(kind)
    linears = list(_linears(module))
    _check_share(name, module, kind)
    num_done = 0
    for parent, child, part in linears:
        try:
            made = _quantized(part, kind, device)
        except Exception as error:  # whatever torchao or a kernel says of this device or shape
            raise UnsupportedModel(
                f"{name}: --quantize {kind} does not run on {device}: {type(error).__name__}: {error}; "
                "choose another format, or leave it out"
            ) from error
        num_done += made is not None
        if made is not None and made is not part:
            setattr(parent, child, made)
    if not num_done:
        raise UnsupportedModel(f"{name}: no linear layer has a shape that --quantize {kind} takes; leave it out")
    module.to(device)
    return f"{kind}, {num_done} of {len(linears) + 1} matrices"


def is_plain(part: object) -> TypeGuard[nn.Linear]:
    """Says whether a module is a linear layer with an ordinary weight, not one that is kept in other numbers."""
    return type(part) is nn.Linear and type(part.weight) is nn.Parameter


def is_quantized(part: nn.Module) -> bool:
    """Says whether a module has a weight in fewer bits: one of ours, torchao's, or another library's."""
    if isinstance(part, PackedLinear):
        return True
    tensors = (*part.parameters(recurse=False), *part.buffers(recurse=False))
    return any(_is_wrapped(tensor) or (tensor.ndim > 1 and tensor.dtype in _FEW_BITS) for tensor in tensors)


_FEW_BITS = {torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2}


def stored_bytes(tensor: Tensor) -> int:
    """Returns the bytes that a tensor takes: those of its parts, where it is made of others as torchao's are."""
    if not _is_wrapped(tensor):
        return tensor.numel() * tensor.itemsize
    wrapped: Any = tensor
    parts, _ = wrapped.__tensor_flatten__()
    return sum(stored_bytes(part) for part in (getattr(tensor, name) for name in parts))


def expected_bytes(module: Any, kind: Format) -> int:
    """Returns the bytes of a model's weights once they are quantized, which it is not; it may be on device `meta`.

    Scales per output are not counted. Parts of a model that --quantize leaves alone are counted as they are.
    """
    saved = 0.0
    if kind != "none":
        saved = sum(
            part.weight.numel() * (part.weight.itemsize - _bits(kind, part.weight.shape) / 8)
            for _, _, part in _linears(module)
            if kind != "int4" or _group(part.weight.shape)
        )
    held = sum(stored_bytes(tensor) for tensor in (*module.parameters(), *module.buffers()))
    return held - round(saved)


def _group(shape: torch.Size) -> int:
    """Returns how many inputs share a scale in 4 bits; 0 if a weight [outputs, inputs] is of no such shape."""
    return next((size for size in _GROUPS if fits_int4(shape, size)), 0)


def _bits(kind: Format, shape: torch.Size) -> float:
    """Returns the bits of a weight, scales of groups included; one per output, in 8 bits, is not worth counting."""
    return 4 + 32 / _group(shape) if kind == "int4" else 8


def count_parameters(module: nn.Module) -> int:
    """Returns how many numbers a model has, however many bits they are kept in; shared ones count once."""
    packed = [part for part in module.modules() if isinstance(part, PackedLinear)]
    return sum(p.numel() for p in module.parameters()) + sum(p.out_features * p.in_features for p in packed)


def _is_wrapped(tensor: Tensor) -> bool:
    return hasattr(tensor, "__tensor_flatten__")


def _check_installed(kind: Format) -> None:
    try:
        import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise UnsupportedModel(
            f"--quantize {kind} needs torchao, which is not installed ({error}); {_REMEDY}"
        ) from error


def _config(kind: Format, device: torch.device, group: int) -> Any:
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int4WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerGroup,
        PerRow,
    )

    if kind == "int8":
        return Int8WeightOnlyConfig()
    if kind == "fp8":
        return Float8WeightOnlyConfig(granularity=PerRow())
    if device.type == "cuda":
        return Int4WeightOnlyConfig(group_size=group, int4_packing_format="tile_packed_to_4d")
    return IntxWeightOnlyConfig(
        weight_dtype=torch.int4,  # type: ignore[attr-defined]
        granularity=PerGroup(group),
        mapping_type=MappingType.ASYMMETRIC,
    )


def _linears(module: Any) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yields the linear layers but the LM head, with where each hangs."""
    head = module.get_output_embeddings()
    for parent in list(module.modules()):
        for child, part in list(parent.named_children()):
            if type(part) is nn.Linear and part is not head:
                yield parent, child, part


def share_in_linears(module: Any) -> float:
    """Returns the share of a model's weights beside embeddings and LM head that --quantize could reach."""
    inside = {id(part.weight): part.weight.numel() for _, _, part in _linears(module)}
    others = sum(weight.numel() for _, weight in _other_weights(module))
    return sum(inside.values()) / max(1, sum(inside.values()) + others)


def _other_weights(module: Any) -> list[tuple[str, Tensor]]:
    ends = (module.get_input_embeddings(), module.get_output_embeddings())
    known = {id(weight) for part in ends for weight in part.parameters()}
    known |= {id(part.weight) for _, _, part in _linears(module)}
    return [(path, weight) for path, weight in module.named_parameters() if id(weight) not in known]


def _check_share(name: str, module: Any, kind: Format) -> None:
    if (share := share_in_linears(module)) < LEAST_SHARE:
        largest = max(_other_weights(module), key=lambda item: item[1].numel())[0]
        raise UnsupportedModel(
            f"{name}: --quantize {kind} reaches {share:.0%} of its weights; the others, such as {largest}, are in no "
            "linear layer; take a folder that is quantized already, or leave --quantize out"
        )


def _quantized(part: nn.Linear, kind: Format, device: torch.device) -> nn.Module | None:
    """Returns what stands for a linear layer, itself where its weight was swapped; None if its shape does not fit."""
    from torchao.quantization import quantize_

    shape, on_cpu = part.weight.shape, device.type == "cpu"
    group = _group(shape) if kind == "int4" else 0
    if kind == "int4" and not group:
        return None
    config = _config(kind, device, group)
    part.to(device)
    quantize_(part, config, filter_fn=lambda module, _: module is part)
    weight: Any = part.weight
    if not on_cpu or kind == "fp8" or (kind == "int8" and not fits_int8(shape)):
        return part
    if kind == "int8":
        return packed_int8(weight.qdata, weight.scale, part.bias, weight.dtype)
    return packed_int4(weight.qdata, weight.scale, weight.zero_point, part.bias, weight.dtype)
