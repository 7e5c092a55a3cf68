"""A naive kernel with the signature of torch's `varlen_attn`, which itself runs on CUDA alone."""

from __future__ import annotations

import torch
from torch import Tensor


def naive_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    ends_of_keys: None,
    max_queries: int,
    max_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
) -> Tensor:
    left, right = window_size
    assert right == (0 if max_queries > 1 or left >= 0 else -1)
    out = torch.full((*query.shape[:2], value.shape[-1]), float("nan"), dtype=query.dtype)
    for row in range(len(ends) - 1):
        begin, end, length = int(ends[row]), int(ends[row + 1]), int(seqused_k[row])
        if begin == end:
            continue
        assert end - begin <= max_queries
        assert length <= max_keys
        pages = block_table[row, : -(-length // key.shape[1])].long()
        k, v = key[pages].flatten(0, 1)[:length], value[pages].flatten(0, 1)[:length]
        positions = torch.arange(length - (end - begin), length)
        keys = torch.arange(length)[None]
        mask = keys <= positions[:, None]
        if left >= 0:
            mask &= keys >= positions[:, None] - left
        out[begin:end] = torch.nn.functional.scaled_dot_product_attention(
            query[begin:end].transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            attn_mask=mask,
            scale=scale,
            enable_gqa=enable_gqa,
        )[0].transpose(0, 1)
    return out
