"""How a token is chosen with a bias, penalties and min_p, in the fewest clear lines: the oracle of sampling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from evals.algorithm.reference import Proposal
from evals.algorithm.uncached_model import UncachedModel
from model_worker.engine.forward.sampling import uniform


def choose(logits: Sequence[float], answer: Sequence[int], position: int, sampling: Any) -> int:
    """The token that `sampling` (of the engine, the router or the client) chooses for a position behind an `answer`."""
    made, repetition = list(logits), sampling.repetition_penalty or 1.0
    for token, count in Counter(answer).items():
        made[token] = made[token] / repetition if made[token] > 0 else made[token] * repetition
        made[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
    for token, bias in dict(sampling.logit_bias or ()).items():
        made[token] += bias
    by_probability = sorted(range(len(made)), key=lambda token: (-made[token], token))
    if sampling.temperature == 0:
        return by_probability[0]
    weights = [math.exp((value - made[by_probability[0]]) / sampling.temperature) for value in made]
    whole = math.fsum(weights)
    left, before = [], 0.0
    for rank, token in enumerate(by_probability):
        p = weights[token] / whole
        in_nucleus = before < (sampling.top_p or 1.0)
        if in_nucleus and rank < (sampling.top_k or len(made)) and weights[token] >= sampling.min_p and p > 0:
            left.append((token, p))
        before += p
    target, mass = uniform(sampling.seed, position) * math.fsum(p for _, p in left), 0.0
    for token, p in left:
        mass += p
        if target < mass:
            return token
    return left[-1][0]


class Shaped(UncachedModel):
    """A model that writes an answer from `start` on as `sampling` says; how unsure it is does not depend on that."""

    def __init__(self, module: Any, vocab_size: int, start: int, sampling: Any) -> None:
        super().__init__(module, vocab_size)
        self._own, self._size, self._start, self._sampling = module, vocab_size, start, sampling

    @torch.inference_mode()
    def next(self, tokens: Sequence[int]) -> Proposal:
        logits = self._own(torch.tensor([list(tokens)]), use_cache=False).logits[0, -1, : self._size].tolist()
        token = choose(logits, tokens[self._start :], len(tokens), self._sampling)
        return super().next(tokens)._replace(token=token)
