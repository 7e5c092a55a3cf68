"""The batch-invariant matrix product in Triton's interpreter, which runs a kernel on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from tests.support.compiling import compile_launches, ptxas

_PRODUCTS = """
import torch, triton.runtime.interpreter as interpreter
# numpy from 2.5 on wants an index where a loop's bound is an array of one number.
patched = interpreter._patch_lang_tensor
def with_index(tensor, *scope):
    patched(tensor, *scope)
    tensor.__index__ = lambda self: int(self.handle.data.item())
interpreter._patch_lang_tensor = with_index
# numpy's product of a tile depends on where in it a row stands; a device's does not, nor does this one.
def dot(self, a, b, d, *precision):
    return interpreter.TensorHandle((a.data[:, :, None] * b.data[None]).sum(1) + d.data, d.dtype.scalar)
interpreter.InterpreterBuilder.create_dot = dot
from model_worker.engine.forward.kernels import invariant_matmul as kernels

torch.manual_seed(0)
seen = set()
narrow, wide = torch.bfloat16, torch.float32
shapes = ((wide, 70, 100, True), (wide, 65, 600, False), (narrow, 64, 520, True))
for dtype, out_features, in_features, biased in shapes:
    tolerance = 1e-5 if dtype == wide else 1e-2
    x = torch.randn(70, in_features).to(dtype)
    weight = torch.randn(out_features, in_features).to(dtype)
    bias = torch.randn(out_features).to(dtype) if biased else None
    whole = kernels.invariant_matmul(x, weight, bias)
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert (whole.double() - exact).abs().max() < tolerance * exact.abs().max()
    parts = kernels.num_parts(out_features, in_features)
    for begin, end in ((0, 1), (41, 42), (3, 36), (0, 64), (5, 70)):
        seen.add((parts > 1, end - begin <= kernels._FEW_ROWS))
        assert torch.equal(kernels.invariant_matmul(x[begin:end], weight, bias), whole[begin:end]), (begin, end)
assert len(seen) == 4, "parts and none, by one program and by several"
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")
def test_a_row_has_the_same_bits_whatever_is_beside_it() -> None:
    subprocess.run([sys.executable, "-c", _PRODUCTS], check=True, env=os.environ | {"TRITON_INTERPRET": "1"})


@pytest.mark.skipif(ptxas(90) is None, reason="no assembler for GPUs")
@pytest.mark.parametrize("num_rows", [1, 512])
def test_it_compiles_for_a_gpu_without_spills(num_rows: int) -> None:
    from model_worker.engine.forward.kernels.invariant_matmul import invariant_matmul

    def call() -> None:
        x, weight = (torch.empty(size, 3584, dtype=torch.bfloat16, device="meta") for size in (num_rows, 4608))
        invariant_matmul(x, weight, torch.empty(4608, dtype=torch.bfloat16, device="meta"))

    compiled = compile_launches(call, 90)
    assert len(compiled) == (2 if num_rows == 1 else 1), "the parts, and their sum"
    assert not any(kernel.spilled_bytes for kernel in compiled)
