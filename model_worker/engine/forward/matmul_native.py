"""Products of bfloat16 rows with a weight on a CPU by a kernel of our own, which reads the weight once for all rows.

Where a CPU has no instructions for bfloat16, torch's own product widens the whole weight anew for each row, so that a
step of four rows costs four of one. What a row gets here depends on that row alone, bit for bit, whatever stands beside
it and however many threads compute. Whether the kernel is used is decided in matmul_choice.py.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.native import WRITTEN_SUMS, BuildFailed, load_native

_SOURCE = Path(__file__).with_name("matmul.cpp")


class _Product(ctypes.Structure):
    _fields_ = [
        ("x", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("weight_stride", ctypes.c_int64),
        ("num_threads", ctypes.c_int64),
    ]


class NativeMatmul:
    """The kernel, called like torch's `linear`. The constructor raises UnsupportedModel where it is not to be had."""

    def __init__(self) -> None:
        try:
            self._kernel = load_native(_SOURCE, WRITTEN_SUMS).multiply_bfloat16
        except BuildFailed as error:
            raise UnsupportedModel(f"native matrix products do not build here: {error}") from error

    def __deepcopy__(self, memo: dict[int, object]) -> NativeMatmul:
        return self  # which a model holds that may be copied

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns x [..., inputs] times weight [outputs, inputs], plus bias [outputs]; all bfloat16, on the CPU.

        Sums are float32, rounded once, after the bias, to nearest even.
        """
        outputs, inputs = weight.shape
        if not inputs:
            return torch.nn.functional.linear(x, weight, bias)
        rows = x.reshape(-1, inputs)
        # Held until the kernel is done: what is not in one piece becomes a copy.
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        weight = weight if weight.stride(1) == 1 else weight.contiguous()
        bias = bias.contiguous() if bias is not None else None
        out = torch.empty((*x.shape[:-1], outputs), dtype=torch.bfloat16)
        product = _Product(
            rows.data_ptr(),
            weight.data_ptr(),
            bias.data_ptr() if bias is not None else None,
            out.data_ptr(),
            rows.shape[0],
            inputs,
            outputs,
            rows.stride(0),
            weight.stride(0),
            torch.get_num_threads(),
        )
        self._kernel(ctypes.byref(product))
        return out
