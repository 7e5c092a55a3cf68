"""Kernels without a GPU: run by Triton's interpreter, and compiled for GPUs that are not there.

The interpreter has to be chosen before Triton is imported, so that tests/engine/kernels runs in processes of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_worker.engine.forward.attention_tables import Tables
from tests.support.compiling import compile_launches, noted_launches, ptxas

FOLDER = Path(__file__).parent / "kernels"
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def interpreted(marks: str, *files: str) -> None:
    """Runs the tests of files where Triton interprets kernels; fails with what they said."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-m", marks]
    command += [str(FOLDER / file) for file in files]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, env=inherited | {"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


ATTENTION = "test_paged_attention.py"


# In two processes, as each takes as long to begin as many a test in it.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_attention", [True, False], ids=["attention", "all else"])
def test_kernels_are_right_in_the_interpreter(is_attention: bool) -> None:
    files = {path.name for path in FOLDER.glob("test_*.py")}
    interpreted("not soak", *([ATTENTION] if is_attention else sorted(files - {ATTENTION})))


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("file", ["test_engine.py", ATTENTION])
def test_kernels_are_right_in_every_combination(file: str) -> None:
    interpreted("soak", file)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def attention(
    tokens: int, group: int, dim: int, dtype: torch.dtype = torch.bfloat16, page_size: int = 256, rows: int = 1,
    max_keys: int = 4096, **options: Any,
) -> Callable[[], object]:  # fmt: skip
    """A call of the attention kernel on an H100's 132 processors, with four key heads."""
    from model_worker.engine.forward.kernels.paged_attention import paged_attention

    def ints(*shape: int) -> Tensor:
        return empty(*shape, dtype=torch.int32)

    tables = Tables(ints(tokens), ints(rows + 1), ints(rows), ints(rows, 17), -(-tokens // rows), max_keys)
    query = empty(1, tokens, 4 * group, dim, dtype=dtype).transpose(1, 2)[0].transpose(0, 1)
    keys, values = (empty(9 * page_size, 4, dim, dtype=dtype) for _ in range(2))
    return lambda: paged_attention(query, keys, values, tables, page_size, **options)


def measuring(dtype: torch.dtype) -> Callable[[], object]:
    from model_worker.engine.forward.kernels.measuring import measure_fused

    return lambda: measure_fused(empty(4, 151_936, dtype=dtype)[:, :151_665])


def norm(dtype: torch.dtype = torch.bfloat16, width: int = 3584) -> Callable[[], object]:
    from model_worker.engine.forward.kernels.layers import Norm, rms_norm

    return lambda: rms_norm(empty(4, width, dtype=dtype), Norm(empty(width, dtype=dtype), 1e-6, False, False))


def rope(dtype: torch.dtype = torch.bfloat16, is_normed: bool = False) -> Callable[[], object]:
    from model_worker.engine.forward.kernels.layers import Norm, rope_and_write

    q, k, v = empty(4, 36 * 128, dtype=dtype).split([28 * 128, 4 * 128, 4 * 128], dim=-1)
    rotation, cache = [(empty(*size, dtype=dtype), empty(*size, dtype=dtype)) for size in ((4, 128), (512, 4, 128))]
    norms = (Norm(empty(128, dtype=dtype), 1e-6, False, False),) * 2 if is_normed else None
    return lambda: rope_and_write(q, k, v, rotation, cache, empty(4, dtype=torch.int64), norms)


def gate(dtype: torch.dtype = torch.bfloat16, is_gelu: bool = False) -> Callable[[], object]:
    from model_worker.engine.forward.kernels.layers import gated

    return lambda: gated(empty(4, 2 * 18944, dtype=dtype), is_gelu)


SINKS_AND_WINDOW = {"sinks": empty(32), "window": 128}
# What a worker with Qwen2.5-7B launches; then what else there is.
USUAL: list[Callable[[], Callable[[], object]]] = [
    lambda: attention(1, 7, 128),
    lambda: attention(512, 7, 128),
    lambda: measuring(torch.bfloat16),
    norm,
    rope,
    gate,
]
OTHERS: list[Callable[[], Callable[[], object]]] = [
    lambda: attention(64, 5, 128, rows=64),
    lambda: attention(8, 7, 128, rows=4),
    lambda: attention(1, 7, 128, page_size=16),
    lambda: attention(1, 2, 256, softcap=50.0),
    lambda: attention(512, 2, 256, softcap=50.0, window=4096),
    lambda: attention(1, 8, 64, torch.float16, **SINKS_AND_WINDOW),
    lambda: attention(512, 8, 192, torch.float16, page_size=48, **SINKS_AND_WINDOW),
    lambda: attention(1, 5, 128, torch.bfloat16, chunk=8192),
    lambda: attention(1, 7, 128, keys_per_split=256),
    lambda: attention(300, 8, 96, keys_per_split=256),
    lambda: attention(1, 8, 256, torch.float32),
    lambda: attention(512, 8, 128, torch.float32, softcap=50.0),
    lambda: attention(512, 8, 192, torch.float32, page_size=48, **SINKS_AND_WINDOW),
    lambda: measuring(torch.float32),
    lambda: norm(torch.float32, 8192),
    lambda: rope(torch.float32, is_normed=True),
    lambda: rope(is_normed=True),
    lambda: gate(torch.float32, is_gelu=True),
]


def check_compiled(make: Callable[[], Callable[[], object]], capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if ptxas(capability) is None:
        pytest.skip(f"this Triton brings no ptxas for sm_{capability}")
    from model_worker.engine.forward.kernels import paged_attention

    monkeypatch.setattr(paged_attention, "_num_processors", lambda device: 132)
    for kernel in compile_launches(make(), capability):
        assert kernel.arch.startswith(f"sm_{capability}")
        # Tiles are made for sm_90; elsewhere a prompt's (sm_80, sm_89) and float32's (sm_100) lack a register or two.
        allowed = 0 if capability == 90 else 32
        assert kernel.spilled_bytes <= allowed, f"{kernel.name} uses {kernel.registers} registers"
        # Two programs fit a processor of an H100 (227 KiB), one fits the smallest that there is (99 KiB).
        assert kernel.shared_bytes <= 99 << 10


@pytest.mark.parametrize("case", range(len(USUAL)))
def test_kernels_compile_without_spills(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiled(USUAL[case], 90, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("capability", [80, 89, 90, 100])
@pytest.mark.parametrize("case", range(len(USUAL) + len(OTHERS)))
def test_all_kernels_compile_without_spills(case: int, capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiled([*USUAL, *OTHERS][case], capability, monkeypatch)


@pytest.mark.parametrize("tokens", [1, 512, 4096])
def test_fixed_splits_of_the_longest_context_take_little_memory(tokens: int) -> None:
    """Of 131,072 keys and 28 heads of 128, with float32 parts of each query's result."""
    with noted_launches() as launches:
        attention(tokens, 7, 128, max_keys=131_072, keys_per_split=256)()
    parts = [
        max(each.nbytes for each in arguments[4:6]) for kernel, arguments, _ in launches if "attend" in str(kernel)
    ]
    assert parts
    assert max(parts) <= min(tokens << 19, 64 << 20)


def test_fixed_splits_are_joined_by_few_kernels() -> None:
    """One for each power of two: another would be compiled, for half a second, while answers wait."""
    from model_worker.engine.forward.kernels.fixed_splits import num_splits

    assert {num_splits(length, 256) for length in range(1, 131_073, 255)} == {1, 2, 4, 8, 16, 32}
    assert num_splits(131_072, 256) == 32
