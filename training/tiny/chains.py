"""Chains of thought for a problem: short, verbose, or a mixture of both with the style decisions left out of the loss.

A chain is a list of pieces; each piece is one line and says whether its first token decides a style that is not the
writer's own. Both models must be able to *go on* in either style, for the other may have begun the line, but neither
may learn to *begin* the other's: that one token carries no loss. Knows nothing of domains, tokenizers or models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from evals.tasks.tiny.domain import OPEN, Domain, Style
from evals.tasks.tiny.splits import P

# How a chain mixes: (share of the chains, probability that a line is in the writer's own style).
MIXTURES: dict[Style, tuple[tuple[float, float], ...]] = {
    "short": ((0.50, 1.0), (0.35, 0.7), (0.15, 0.0)),
    "verbose": ((0.40, 1.0), (0.30, 0.5), (0.30, 0.0)),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the answer that is tokenized by itself."""

    text: str
    foreign: bool = False  # its first token would begin the other model's style: no loss there


def chain(domain: Domain[P], problem: P, own: Style, rng: random.Random | None = None) -> list[Piece]:
    """The answer in one's own style, or, given a generator of choices, in a mixture drawn from `MIXTURES`."""
    other: Style = "verbose" if own == "short" else "short"
    p_own = 1.0
    if rng is not None:
        shares, rates = zip(*MIXTURES[own], strict=True)
        p_own = rng.choices(rates, shares)[0]
    pieces = [Piece(OPEN)]
    for mine, theirs in zip(domain.lines(problem, own), domain.lines(problem, other), strict=True):
        foreign = rng is not None and rng.random() >= p_own
        pieces.append(Piece(theirs if foreign else mine, foreign))
    pieces.append(Piece(domain.closing(problem)))
    return pieces


def text(pieces: list[Piece]) -> str:
    """The answer as one string."""
    return "".join(piece.text for piece in pieces)
