"""Holds distributions to grammars: what cannot come next is taken away before anything is measured or chosen.

It works on what a forward has left, as `masking` does, and only where a row asks for it. On a device the grammars are
asked while that computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.sampling import Choices
from model_worker.engine.forward.transfer import Later, to_device


def bind(
    batch: Batch,
    logits: Tensor,
    index: Sequence[int],
    own: Later[Choices] | None,
    measure: Callable[[Tensor], Later[Choices]],
) -> Later[Choices]:
    """Puts -inf into the bound rows of `logits` [n, vocab_size], in place; returns what is measured of all rows.

    `index` says which of the n rows each distribution of the batch has. `own` is what was measured before, None if
    nothing was. Those after which nothing may come are left as they are, and noted in `batch.stuck`.
    """
    bits: list[bytes] = []
    anything = b"\xff" * (-(-logits.shape[1] // 32) * 4)
    for places, row in batch.bound:
        grammar = row.run.request.grammar
        assert grammar is not None, "only such rows are bound"
        session = row.run.session
        allowed = grammar.allowed(session.tokens, session.num_same(grammar), len(places))
        for place, found in zip(places, allowed, strict=True):
            bits.append(found if isinstance(found, bytes) else anything)
            if not isinstance(found, bytes):
                batch.stuck[place] = found
    rows = [index[place] for places, _ in batch.bound for place in places]
    on_device = to_device(torch.tensor(rows), logits.device)
    packed = torch.frombuffer(bytearray().join(bits), dtype=torch.uint8).view(len(rows), -1)
    bound = logits.index_select(0, on_device)
    bound.masked_fill_(_is_taken(to_device(packed, logits.device), logits.shape[1]), -math.inf)
    logits.index_copy_(0, on_device, bound)
    if own is None:
        return measure(logits)
    again = measure(bound)
    whole = math.log(logits.shape[1])
    # Divided by what the whole run may write, as those of other rows: a bound of the entropy means so many nats.
    scales = [
        whole / math.log(mask.num_left) if (mask := row.run.mask) is not None else 1.0
        for places, row in batch.bound
        for _ in places
    ]

    def read() -> Choices:
        found, others = own(), again()
        choices = Choices(list(found.tokens), list(found.entropies), list(found.logprobs))
        for place, (row, scale) in enumerate(zip(rows, scales, strict=True)):
            choices.tokens[row], choices.logprobs[row] = others.tokens[place], others.logprobs[place]
            choices.entropies[row] = others.entropies[place] * scale
        return choices

    return read


def _is_taken(packed: Tensor, vocab_size: int) -> Tensor:
    """Unpacks bits [n, bytes] to [n, vocab_size]: whether each is unset."""
    masks = 1 << torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[:, :, None] & masks).flatten(1)[:, :vocab_size] == 0
