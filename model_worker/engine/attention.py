"""Paged attention behind transformers' `AttentionInterface`: the KV cache's tensors and the reading of them.

A model's layers call `PagedAttention.forward` instead of their own attention. It writes the new keys and values to
their pages and lets every row of the batch attend to its own pages. It does not know sessions or scheduling: a
`BatchPlan` says where to write and what to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer keeps per token, and how its scores are made."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    softcap: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that attend together: same number of queries, padded to the longest context.

    Attributes:
        queries: slice of the flattened batch, rows x num_queries tokens in order.
        num_rows: rows.
        slots: int64 [num_rows * num_keys], where the keys lie; padding repeats a written one and is masked.
        mask: bool [num_rows, 1, num_queries, num_keys]; None if every query sees every key.
    """

    queries: slice
    num_rows: int
    slots: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One forward: where the new tokens' keys go (int64 [num_tokens]) and what each group reads."""

    write_slots: Tensor
    groups: list[Group]


class PagedAttention:
    """Keys and values of all layers, [num_slots, num_kv_heads, dim] each; slot = page * page_size + offset."""

    def __init__(self, shapes: list[LayerShape], num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shapes = shapes
        # Not zeroed: only written slots are read (a group's padding repeats a slot of its own row).
        self._keys = [
            torch.empty(num_slots, shape.num_kv_heads, shape.key_dim, dtype=dtype, device=device) for shape in shapes
        ]
        self._values = [
            torch.empty(num_slots, shape.num_kv_heads, shape.value_dim, dtype=dtype, device=device) for shape in shapes
        ]
        self._plan: BatchPlan | None = None

    def begin(self, plan: BatchPlan) -> None:
        """The next forward is of this batch."""
        self._plan = plan

    def forward(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        """The call of a layer: query [1, heads, tokens, key_dim], key and value [1, kv_heads, tokens, dim].

        Returns [1, tokens, heads, value_dim]. Keywords that would change the result were refused at start.
        """
        assert self._plan is not None, "begin() before the forward"
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        keys, values = self._keys[layer], self._values[layer]
        keys.index_copy_(0, self._plan.write_slots, key[0].transpose(0, 1))
        values.index_copy_(0, self._plan.write_slots, value[0].transpose(0, 1))
        outputs = [self._attend(group, query, keys, values, scaling, layer) for group in self._plan.groups]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), None

    def _attend(
        self, group: Group, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, layer: int
    ) -> Tensor:
        """The group's outputs, [1, tokens of the group, heads, value_dim]."""
        rows = group.num_rows
        num_heads = query.shape[1]
        # [1, heads, rows * queries, dim] -> [rows, heads, queries, dim]
        q = query[0, :, group.queries].unflatten(1, (rows, -1)).transpose(0, 1)
        # [rows * keys, kv_heads, dim] -> [rows, kv_heads, keys, dim]
        k = keys.index_select(0, group.slots).unflatten(0, (rows, -1)).transpose(1, 2)
        v = values.index_select(0, group.slots).unflatten(0, (rows, -1)).transpose(1, 2)
        softcap = self._shapes[layer].softcap
        if softcap is None:
            out = nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=group.mask, scale=scaling, enable_gqa=k.shape[1] != num_heads
            )
        else:
            out = _softcapped(q, k, v, group.mask, scaling, softcap)
        # [rows, heads, queries, dim] -> [1, rows * queries, heads, dim]
        return out.transpose(1, 2).flatten(0, 1)[None]


def _softcapped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None, cap: float) -> Tensor:
    """Attention whose scores s become cap * tanh(s / cap) before the softmax (Gemma 2)."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = (q @ k.transpose(-1, -2)) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    scores = cap * torch.tanh(scores / cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.promote_types(torch.float32, q.dtype)).to(q.dtype) @ v
