"""The most probable tokens of a distribution, for whoever wants to see what else could have been written.

It works on what a forward has left, outside compiled code and captured graphs, and only where a row asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model_worker.engine.forward.inversion import GROUP
from model_worker.engine.forward.transfer import Later, to_device, to_host
from model_worker.engine.types import Alternatives


def most_probable(logits: Tensor, rows: Sequence[int], counts: Sequence[int]) -> Later[list[Alternatives]]:
    """Finds the `counts[i]` most probable tokens of each of the `rows` of `logits` [n, vocab_size], with logprobs.

    The most probable comes first, the lower id first among equals; a masked token is none of them. It is a function of
    the logits alone, on any device.
    """
    most = min(max(counts), logits.shape[-1])
    on_device = to_device(torch.tensor(rows), logits.device)
    parts = [_most_probable(logits.index_select(0, group), most) for group in on_device.split(GROUP)]
    told = to_host(torch.cat(parts, 1))

    def read() -> list[Alternatives]:
        tokens, values = told.tolist()
        return [
            tuple((int(token), value) for token, value in zip(ids[:num], own[:num], strict=True) if value > -torch.inf)
            for ids, own, num in zip(tokens, values, counts, strict=True)
        ]

    return read


def _most_probable(own: Tensor, most: int) -> Tensor:
    """Returns ids and logprobs of the `most` most probable tokens of each row, float64 [2, rows, most]."""
    size = own.shape[-1]
    logprobs = own.log_softmax(-1, torch.promote_types(own.dtype, torch.float32))
    # `topk` takes any of those that equal the last one it takes: here these are the ones with the lowest ids.
    least = logprobs.topk(most).values[:, -1:]
    is_above, is_least = logprobs > least, logprobs == least
    is_found = is_above | (is_least & (is_least.cumsum(-1) <= most - is_above.sum(-1, keepdim=True)))
    by_id = torch.arange(size, 0, -1, device=own.device)
    ids = torch.where(is_found, by_id, 0).topk(most).indices.sort(-1).values
    found, order = logprobs.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return torch.stack([ids.gather(-1, order).double(), found.double()])  # float64 holds every id
