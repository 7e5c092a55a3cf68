"""A linear layer whose weight is kept in 8 or 4 bits, for CPUs, by torch's own products with packed weights.

Whoever makes one has chosen the numbers (quantizing.py). It is no `nn.Linear`, so what reads plain weights (our own
matrix product, fused kernels, batch invariance) passes it by.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Rows from which on it pays to widen an 8-bit weight once for all of them.
_MANY_ROWS = 16
_operations = torch.library.Library("rstitch", "FRAGMENT")
_operations.define("packed_linear(Tensor x, Tensor packed, Tensor scales, Tensor? bias, int group) -> Tensor")


class PackedLinear(nn.Module):
    """x times a quantized weight [outputs, inputs], plus a bias."""

    def __init__(
        self, packed: Tensor, scales: Tensor, bias: nn.Parameter | None, shape: torch.Size, group: int
    ) -> None:
        """Takes what `packed_int8` or `packed_int4` has made; a `group` of 0 is a scale per output."""
        super().__init__()
        self.out_features, self.in_features = shape
        self.group = group
        self.packed: Tensor
        self.scales: Tensor
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # which would keep one of the two ways for every number of rows
            made: Tensor = torch.ops.rstitch.packed_linear(x, self.packed, self.scales, self.bias, self.group)
            return made
        return _packed_linear(x, self.packed, self.scales, self.bias, self.group)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, group={self.group}"


def fits_int8(shape: torch.Size) -> bool:
    """Says whether torch's kernel takes a weight [outputs, inputs]; it reads beyond the end of others."""
    return shape[0] % 16 == 0 and shape[1] % 32 == 0


def fits_int4(shape: torch.Size, group: int) -> bool:
    """Says whether torch's kernel takes a weight [outputs, inputs] in such groups."""
    return shape[0] % 16 == 0 and shape[1] % group == 0


def packed_int8(numbers: Tensor, scales: Tensor, bias: nn.Parameter | None, dtype: torch.dtype) -> PackedLinear:
    """Makes a layer of int8 numbers [outputs, inputs] and their scales [outputs]."""
    return PackedLinear(numbers.contiguous(), scales.flatten().to(dtype), bias, numbers.shape, 0)


def packed_int4(
    numbers: Tensor, scales: Tensor, zeros: Tensor, bias: nn.Parameter | None, dtype: torch.dtype
) -> PackedLinear:
    """Makes a layer of numbers in -8 to 7 [outputs, inputs], with the scales and the zeros of their groups.

    A weight is (number - zero) x scale; scales and zeros are [outputs, groups].
    """
    # torch's layout has numbers from 0 on, and adds what stands for 8: (number + 8 - 8) x scale - zero x scale.
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((numbers + 8).to(torch.int32), 1)
    offsets = -zeros.to(torch.float32) * scales.to(torch.float32)
    both = torch.stack([scales.to(dtype), offsets.to(dtype)], -1).transpose(0, 1).contiguous()
    return PackedLinear(packed, both, bias, numbers.shape, numbers.shape[1] // scales.shape[1])


def _packed_linear(x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if group:
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows.contiguous(), packed, group, scales)
    elif rows.shape[0] < _MANY_ROWS and x.dtype == torch.bfloat16:
        out = torch.ops.aten._weight_int8pack_mm(rows.contiguous(), packed, scales)
    else:  # in float32 torch's kernel is slower than to widen the weight
        out = nn.functional.linear(rows, packed.to(x.dtype)) * scales
    made: Tensor = out if bias is None else out + bias
    return made.view(*x.shape[:-1], -1)


def _shape_of(x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, group: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], scales.shape[1] if group else scales.shape[0])


_operations.impl("packed_linear", _packed_linear, "CPU")
torch.library.register_fake("rstitch::packed_linear", _shape_of, lib=_operations)
