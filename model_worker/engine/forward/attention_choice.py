"""Which attention backend serves a model here: the one asked for, or the first that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention import PagedAttention
from model_worker.engine.forward.attention_native import NativeAttention
from model_worker.engine.forward.attention_triton import TritonAttention
from model_worker.engine.forward.attention_varlen import VarlenAttention
from model_worker.engine.forward.attention_varlen import why_not as why_not_varlen
from model_worker.engine.forward.backend import AttentionBackend
from model_worker.engine.forward.invariant_attention import InvariantAttention
from model_worker.engine.forward.kv_cache import KvCache, LayerShape
from model_worker.engine.types import Attention, Limits

_BY_TABLES = {"varlen": VarlenAttention, "triton": TritonAttention}

_KEYS_PER_SPLIT = 256  # of the first splits of a batch-invariant row
# Sessions share whole pages, so smaller ones share more. torch's kernel takes multiples of 256 alone; ours reads blocks
# of at most 64 keys, which should lie in one page; on a CPU any size will do.
_VARLEN_PAGE, _TRITON_PAGE, _CPU_PAGE = 256, 64, 16
_HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """A backend that was tried and runs."""

    attention: AttentionBackend
    why: str = ""  # why no other that was to come first; empty where the first one runs


def default_page_size(
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    shapes: Sequence[LayerShape] = (),
    wish: Attention = "auto",
    *,
    batch_invariant: bool = False,
) -> int:
    """Returns the number of tokens per KV page: the smallest that suits the attention that will be tried first."""
    if device.type != "cuda":
        return _CPU_PAGE
    is_tried = wish == "auto" and not batch_invariant and dtype in _HALVES and not why_not_varlen(shapes)
    return _VARLEN_PAGE if wish == "varlen" or is_tried else _TRITON_PAGE


def choose_attention(cache: KvCache, limits: Limits, attempt: Callable[[AttentionBackend], None]) -> AttentionChoice:
    """Chooses by `limits.attention`; `attempt` runs the model with a backend and raises whatever that raises.

    Raises UnsupportedModel if the backend that is asked for does not run. "auto" tries on CUDA what reads pages through
    block tables, torch's own kernel first, on a CPU the kernel built here, and falls back to views of the cache.
    """
    wish = limits.attention
    if limits.batch_invariant:
        return AttentionChoice(_invariant(cache, limits, attempt))
    if wish in ("in-place", "gather"):
        return AttentionChoice(PagedAttention(cache, in_place=wish == "in-place"))
    if wish == "native" or (wish == "auto" and cache.device.type == "cpu"):
        try:
            return AttentionChoice(NativeAttention(cache))
        except UnsupportedModel as error:
            if wish == "native":
                raise
            return AttentionChoice(PagedAttention(cache), str(error))
    reasons: list[str] = []
    for name in _BY_TABLES if wish == "auto" else (wish,):
        if wish == "auto" and name == "varlen" and cache.dtype not in _HALVES:
            reasons.append("varlen computes in 16 bits")
            continue
        try:
            attention = _BY_TABLES[name](cache, limits.context_length)
            attempt(attention)
        except Exception as error:  # whatever a kernel says that cannot do this model or device
            if wish != "auto":
                raise UnsupportedModel(f"{name} attention does not run this model here: {error}") from error
            reasons.append(f"{name} does not run here: {error}")
        else:
            return AttentionChoice(attention, "; ".join(reasons))
    return AttentionChoice(PagedAttention(cache), "; ".join(reasons))


def _invariant(cache: KvCache, limits: Limits, attempt: Callable[[AttentionBackend], None]) -> AttentionBackend:
    """Returns the backend in which a row's sums have one order whatever the batch; torch's kernel promises none."""
    wish = limits.attention
    if wish in ("varlen", "native"):
        raise UnsupportedModel(f"{wish} attention is not batch-invariant; leave --attention at auto")
    if wish in ("in-place", "gather") or (wish == "auto" and cache.device.type != "cuda"):
        return InvariantAttention(cache, in_place=wish != "gather")
    try:
        attention = TritonAttention(cache, limits.context_length, _KEYS_PER_SPLIT)
        attempt(attention)
    except Exception as error:  # whatever a kernel says that cannot do this model or device
        raise UnsupportedModel(
            f"--batch-invariant needs triton attention here, which does not run this model: {error}; start without it"
        ) from error
    return attention
