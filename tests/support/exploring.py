"""An exploring head as Algorithm 1 asks it, naively, and what an answer must tell of its consultations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import pytest

from evals.algorithm.reference import Author, Proposal, Token
from rstitch.client.types import Answer, Consultation
from rstitch.service.coin import uniform
from rstitch.service.head import Head
from rstitch.service.head_features import Situation, numbers


@dataclass
class Exploring:
    """The rule of R-Stitch+ whose decisions are drawn, and what the head was asked and said.

    Attributes:
        tau: the head is asked where the SLM's entropy is above.
        seed: of the coins; None: the head decides by itself.
        state: gives the SLM's hidden state behind tokens, float32 [hidden_size], and how many tokens it read.
        start: the position of the answer's first token.
        llm_tokens: budget; once it is spent nobody is asked.
    """

    head: Head
    tau: float
    state: Callable[[Sequence[int]], tuple[bytes, int]]
    start: int
    seed: int | None = None
    price: float = 1.0
    llm_tokens: int | None = None
    consultations: list[Consultation] = field(default_factory=list)
    _proposed: int = 0
    _written: Sequence[Token] = ()

    def first(self, position: int) -> Author:
        return "slm"

    def value(self, proposal: Proposal, written: Sequence[Token]) -> float:
        self._proposed, self._written = proposal.token, written
        return proposal.entropy

    def discards(self, value: float, tokens: Sequence[int]) -> bool:
        written = self._written
        spent = sum(token.model == "llm" for token in written)
        if value <= self.tau or spent == self.llm_tokens:
            return False
        state, num_read = self.state(tokens)
        situation = Situation(
            value,
            [token.entropy for token in written],
            sum(1 for _ in takewhile(lambda token: token.model == "slm", reversed(written))),
            spent,
            None if self.llm_tokens is None else self.llm_tokens - spent,
        )
        features = numbers(self.head.facts.features, situation)
        slm, llm = self.head.logits(state, num_read, features)
        odds = math.exp(llm - slm) / self.price
        probability = odds / (1 + odds)
        position = self.start + len(written)
        coin = 0.5 if self.seed is None else uniform(self.seed, position, b"explore")
        to_llm = coin < probability
        half = np.frombuffer(state, "<f4").astype("<f2").tobytes()
        self.consultations.append(
            Consultation(position, half, value, self._proposed, tuple(features), probability, to_llm, num_read)
        )
        return to_llm

    def following(self, writer: Author, value: float, position: int) -> Author:
        return "slm" if value <= self.tau else writer


def told(answer: Answer) -> list[Consultation]:
    """The consultations of an answer's chunks, which have followed them."""
    found: list[Consultation] = []
    for chunk in answer.chunks:
        for asked in chunk.consultations:
            assert chunk.position <= asked.position < chunk.position + len(chunk.tokens)
            assert asked.to_llm == (chunk.model == "llm")
            assert asked.to_llm or chunk.tokens[asked.position - chunk.position] == asked.proposal
            found.append(asked)
    return found


def same(found: Sequence[Consultation], expected: Sequence[Consultation]) -> None:
    """Asserts that these are the same questions in the same order, with the same answers; numbers up to rounding."""
    assert [(c.position, c.proposal, c.to_llm, c.context_length) for c in found] == [
        (c.position, c.proposal, c.to_llm, c.context_length) for c in expected
    ]
    for ours, theirs in zip(found, expected, strict=True):
        states = (np.frombuffer(c.hidden_state, "<f2").astype(np.float32) for c in (ours, theirs))
        assert next(states) == pytest.approx(next(states), rel=2e-3, abs=1e-3)
        assert (ours.entropy, ours.probability) == pytest.approx((theirs.entropy, theirs.probability), abs=1e-5)
        assert ours.features == pytest.approx(theirs.features, rel=1e-4, abs=1e-4)
