"""Which attention backend serves a model here: the one asked for, or the first that runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention import PagedAttention
from model_worker.engine.forward.attention_native import NativeAttention
from model_worker.engine.forward.attention_triton import TritonAttention
from model_worker.engine.forward.attention_varlen import VarlenAttention
from model_worker.engine.forward.backend import AttentionBackend
from model_worker.engine.forward.invariant_attention import InvariantAttention
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.types import Limits

_BY_TABLES = {"varlen": VarlenAttention, "triton": TritonAttention}

_KEYS_PER_SPLIT = 256  # of a batch-invariant row: few enough for many programs, many enough for a program's while


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """A backend that was tried and runs."""

    attention: AttentionBackend
    why: str = ""  # why no other that was to come first; empty where the first one runs


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
        if wish == "auto" and name == "varlen" and cache.dtype not in (torch.bfloat16, torch.float16):
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
