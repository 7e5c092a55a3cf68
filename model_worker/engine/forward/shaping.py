"""Biases and penalties: the logits that a token is chosen by, where they are not the model's own.

What is measured and told stays that of the model's own logits. It works on a copy of the rows that ask for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from model_worker.engine.forward.transfer import to_device
from model_worker.engine.types import Sampling


def shaped(
    logits: Tensor, rows: Sequence[int], samplings: Sequence[Sampling], answers: Sequence[Sequence[int]]
) -> Tensor:
    """Returns the `rows` of `logits` [n, vocab_size] as they are chosen by, float64 [len(rows), vocab_size].

    `answers` has the tokens that each row's penalties look at: those of the answer before the token that is chosen.
    """
    made = logits.index_select(0, to_device(torch.tensor(rows), logits.device)).double()
    seen: list[tuple[float, ...]] = []  # row, token, what the logit is divided by, what is taken off it
    biases: list[tuple[float, ...]] = []  # row, token, bias
    for row, (sampling, answer) in enumerate(zip(samplings, answers, strict=True)):
        if sampling.penalizes:
            for token, count in Counter(answer).items():
                taken_off = sampling.frequency_penalty * count + sampling.presence_penalty
                seen.append((row, token, sampling.repetition_penalty, taken_off))
        biases += [(row, token, bias) for token, bias in sampling.logit_bias]
    if seen:
        # float64 holds every id.
        row_ids, token_ids, divisors, taken = to_device(torch.tensor(seen, dtype=torch.float64).T, logits.device)
        place = (row_ids.long(), token_ids.long())
        own = made[place]
        made[place] = torch.where(own > 0, own / divisors, own * divisors) - taken
    if biases:
        row_ids, token_ids, added = to_device(torch.tensor(biases, dtype=torch.float64).T, logits.device)
        place = (row_ids.long(), token_ids.long())
        made[place] += added
    return made
