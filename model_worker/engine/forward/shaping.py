"""Biases and penalties: the logits that a token is chosen by, where they are not the model's own.

What is measured and told stays that of the model's own logits. It works on a copy of the rows that ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.token_counts import Counted
from model_worker.engine.forward.transfer import to_device
from model_worker.engine.types import Sampling


def shaped(
    logits: Tensor, rows: Sequence[int], samplings: Sequence[Sampling], answers: Sequence[Counted | None]
) -> Tensor:
    """Returns the `rows` of `logits` [n, vocab_size] as they are chosen by, float64 [len(rows), vocab_size].

    `answers` has what each row's penalties look at: how often which token is in the answer before the one that is
    chosen; None where a row has no penalty.
    """
    made = logits.index_select(0, to_device(torch.tensor(rows), logits.device)).double()
    seen: list[Tensor] = []  # row, token, what the logit is divided by, what is taken off it: [4, number of tokens]
    biases: list[tuple[float, ...]] = []  # row, token, bias
    for row, (sampling, answer) in enumerate(zip(samplings, answers, strict=True)):
        if answer is not None and len(answer.tokens):
            seen.append(_penalties(row, sampling, answer))
        biases += [(row, token, bias) for token, bias in sampling.logit_bias]
    if seen:
        row_ids, token_ids, divisors, taken = to_device(torch.cat(seen, 1), logits.device)
        place = (row_ids.long(), token_ids.long())
        own = made[place]
        made[place] = torch.where(own > 0, own / divisors, own * divisors) - taken
    if biases:
        row_ids, token_ids, added = to_device(torch.tensor(biases, dtype=torch.float64).T, logits.device)
        place = (row_ids.long(), token_ids.long())
        made[place] += added
    return made


def _penalties(row: int, sampling: Sampling, answer: Counted) -> Tensor:
    made = torch.empty(4, len(answer.tokens), dtype=torch.float64)  # which holds every id
    made[0], made[1] = row, torch.frombuffer(answer.tokens, dtype=torch.int64)
    made[2] = sampling.repetition_penalty
    made[3] = torch.frombuffer(answer.counts, dtype=torch.float64) * sampling.frequency_penalty
    made[3] += sampling.presence_penalty
    return made
