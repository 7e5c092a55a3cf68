"""Whether a model's small kernels are fused here. What can be is found out in fusing.py, which imports Triton."""

from __future__ import annotations

from typing import Any, Literal

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention_tables import BlockTableAttention
from model_worker.engine.forward.backend import AttentionBackend
from model_worker.engine.forward.kernels.availability import why_not


def fuse_here(module: Any, attention: AttentionBackend, wish: Literal["auto", "on", "off"]) -> str:
    """Fuses what can be and says what that is; empty if nothing is. "auto": on CUDA.

    Raises UnsupportedModel if it is "on" and cannot be.
    """
    parameter = next(module.parameters())
    if wish == "off" or (wish == "auto" and parameter.device.type != "cuda"):
        return ""
    reason = why_not(parameter.device, parameter.dtype)
    if not isinstance(attention, BlockTableAttention):
        reason = reason or "they need attention through block tables (varlen or triton), which does not run here"
    else:
        if not reason:
            from model_worker.engine.forward.fusing import fuse

            if fused := fuse(module, attention):
                return str(fused)
            reason = f"no part of {type(module).__name__} is one of theirs"
    if wish == "on":
        raise UnsupportedModel(f"fused kernels cannot be used: {reason}; start with --fused off")
    return ""
