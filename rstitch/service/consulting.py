"""Asks a head on behalf of one run: in the SLM's worker, or in the router. Both decide alike.

It knows no engine, no policy and no wire.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from rstitch.service.coin import uniform
from rstitch.service.head import Head
from rstitch.service.head_features import NUM_RECENT, Situation, numbers

_EXPLORES = b"explore"


@dataclass(frozen=True, slots=True)
class HeadTerms:
    """Says on which terms a run's head is asked, and how the answer stands where the run begins.

    Attributes:
        position: of the run's first token, as whoever asks counts: coins are tossed by it.
        explore_seed: of the coins by which decisions are drawn, with the head's probability; None: they are not drawn.
        price: what a token of the LLM is worth, in multiples of what the head was trained for; over 0.
        report: whether the consultations are wanted back.
        max_reported: so many of the run's at most, the first ones; 0: all.
        recent_entropies, segment_length, num_llm_tokens, llm_tokens_left: as in `Situation`, before the run.
    """

    position: int = 0
    explore_seed: int | None = None
    price: float = 1.0
    report: bool = False
    recent_entropies: tuple[float, ...] = ()
    segment_length: int = 0
    num_llm_tokens: int = 0
    llm_tokens_left: int | None = None
    max_reported: int = 0

    def one_later(self) -> HeadTerms:
        """Gives the terms of a run one position later, for a head that looks at nothing else of the answer so far."""
        return replace(self, position=self.position + 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a head said of one position.

    Attributes:
        position: as in `HeadTerms.position`.
        context_length: tokens that the SLM had read before it.
        hidden_state: the SLM's there, float32 little-endian, [hidden_size].
        features: what else the head was shown, in its own order.
        probability: with which the LLM was to write it, at the price.
    """

    position: int
    context_length: int
    hidden_state: bytes
    entropy: float
    features: tuple[float, ...]
    probability: float
    to_llm: bool


def in_half_precision(hidden_state: bytes) -> bytes:
    """Gives a hidden state, float32 little-endian, as float16 little-endian; what is too large is the largest there."""
    most = float(np.finfo(np.float16).max)
    made: bytes = np.clip(np.frombuffer(hidden_state, "<f4"), -most, most).astype("<f2").tobytes()
    return made


class Consultant:
    """Asks one head during one run of the SLM; it is told of every token that the run keeps."""

    __slots__ = ("_head", "_num_kept", "_recent", "terms")

    def __init__(self, head: Head, terms: HeadTerms) -> None:
        self.terms = terms
        self._head = head
        self._num_kept = 0
        self._recent = deque(terms.recent_entropies, NUM_RECENT)

    def keep(self, entropy: float) -> None:
        """Takes note of a token that the run kept."""
        self._num_kept += 1
        self._recent.append(entropy)

    def ask(self, hidden_state: bytes, context_length: int, entropy: float) -> Verdict:
        """Asks about the next position; raises ValueError unless the hidden state is [hidden_size], float32."""
        terms = self.terms
        position = terms.position + self._num_kept
        situation = Situation(
            entropy,
            self._recent,
            terms.segment_length + self._num_kept,
            terms.num_llm_tokens,
            terms.llm_tokens_left,
        )
        features = tuple(numbers(self._head.facts.features, situation))
        probability = self._head.probability(hidden_state, context_length, features, terms.price)
        if terms.explore_seed is None:
            to_llm = probability > 0.5
        else:
            to_llm = uniform(terms.explore_seed, position, _EXPLORES) < probability
        return Verdict(position, context_length, hidden_state, entropy, features, probability, to_llm)
