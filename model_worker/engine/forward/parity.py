"""Moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.runner import _TOLERANCE


def reference_logits(loaded: LoadedModel, tokens: Sequence[int]) -> Tensor:
    """Logits after the last token by the model's own eager attention, [num_logits]; call before a Runner is made."""
    loaded.module.set_attn_implementation("eager")
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=loaded.device)
        logits: Tensor = loaded.module(input_ids=ids, use_cache=False).logits[0, -1]
    return logits


def check_parity(name: str, ours: Tensor, reference: Tensor) -> None:
    """Raises UnsupportedModel if the engine's logits are not the model's own."""
    ours = ours.to(torch.promote_types(ours.dtype, torch.float32))
    expected = reference[: ours.shape[-1]].to(ours.dtype)
    difference = float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not difference <= _TOLERANCE[reference.dtype]:
        raise UnsupportedModel(
            f"{name}: the engine's logits differ from the model's own by {difference:.1e}; not served"
        )
