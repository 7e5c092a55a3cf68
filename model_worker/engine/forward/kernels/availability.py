"""Whether Triton kernels can run here; it imports Triton only to ask."""

from __future__ import annotations

import os
import shutil

import torch

_COMPILERS = ("gcc", "clang")  # as Triton looks for them


def interprets() -> bool:
    """Whether Triton was told to run kernels in its interpreter, on the CPU (TRITON_INTERPRET=1), as tests do."""
    try:
        import triton
    except ImportError:
        return False
    return bool(triton.knobs.runtime.interpret)


def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """Returns why Triton kernels cannot run on tensors of this kind, or nothing if they can."""
    if device.type != "cuda" and not interprets():
        return f"Triton kernels run on CUDA devices, not on {device}"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton is not installed ({error})"
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"the kernels compute in 16 or 32 bits, not in {str(dtype).removeprefix('torch.')}"
    if device.type == "cuda" and not (os.environ.get("CC") or any(map(shutil.which, _COMPILERS))):
        return f"Triton needs a C compiler ({' or '.join(_COMPILERS)}) to reach a GPU; install it or name it in CC"
    return ""
