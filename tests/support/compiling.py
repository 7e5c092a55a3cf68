"""Compiles Triton kernels for a GPU that is not there: what a call would launch is noted, compiled, and not run."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_TYPES = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    name: str
    arch: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    ptx: str


def ptxas(capability: int) -> Path | None:
    """NVIDIA's assembler for sm_`capability` as it comes with Triton; None where it does not."""
    try:
        import triton.backends.nvidia as nvidia
    except ImportError:
        return None
    found = Path(nvidia.__file__).parent / "bin" / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    return found if found.exists() else None


def compile_launches(call: Callable[[], object], capability: int) -> list[Compiled]:
    """Compiles every kernel that `call` launches, on tensors of any device, for sm_`capability`."""
    with noted_launches() as launches:
        call()
    assert launches, "nothing was launched"
    return [_compile(kernel, arguments, options, capability) for kernel, arguments, options in launches]


@contextmanager
def noted_launches() -> Iterator[list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """Notes what is launched meanwhile, which is not run: kernels, arguments and options."""
    from triton.runtime.jit import JITFunction

    launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def note(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append((self, arguments, options))

    run = JITFunction.run
    JITFunction.run = note
    try:
        yield launches
    finally:
        JITFunction.run = run


def _compile(kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any], capability: int) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    values = dict(zip(kernel.arg_names, arguments, strict=False))
    values |= {name: options.pop(name) for name in list(options) if name in kernel.arg_names}
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[Any]] = {}
    for parameter in kernel.params:
        place, value = (parameter.num,), values[parameter.name]
        is_tensor = isinstance(value, torch.Tensor)
        if (
            parameter.is_constexpr
            or value is None
            or (not is_tensor and value == 1 and not parameter.do_not_specialize)
        ):
            signature[parameter.name], constants[place] = "constexpr", value
            continue
        if is_tensor:
            signature[parameter.name] = "*" + _TYPES[value.dtype]
            is_divisible = value.storage_offset() * value.itemsize % 16 == 0
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            is_divisible = isinstance(value, int) and value % 16 == 0
        if is_divisible and not parameter.do_not_specialize and not parameter.do_not_specialize_on_alignment:
            attributes[place] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx: str = compiled.asm["ptx"]
    arch = re.search(r"\.target (sm_\w+)", ptx)
    assert arch is not None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        told = subprocess.run(
            [str(ptxas(capability)), "-v", f"--gpu-name={arch[1]}", str(file), "-o", str(Path(folder, "kernel.cubin"))],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    return Compiled(
        name=kernel.__name__,
        arch=arch[1],
        registers=int(re.findall(r"Used (\d+) registers", told)[-1]),
        spilled_bytes=sum(int(size) for size in re.findall(r"(\d+) bytes spill", told)),
        shared_bytes=compiled.metadata.shared,
        ptx=ptx,
    )
