"""Chains of thought for a problem: short, verbose, or a mixture of both with the style decisions left out of the loss.

A chain is a list of pieces; each piece is one line and says whether its first token decides a style that is not the
writer's own. Both models must be able to *go on* in either style, for the other may have begun the line, but neither
may learn to *begin* the other's: that one token carries no loss. Knows nothing of tokenizers or models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from training.tiny.task import Problem, Step

Style = Literal["short", "verbose"]

OPEN = "<think>\n"
_VERBS = {"+": "Add", "-": "Subtract", "*": "Multiply by", "/": "Divide by"}
_INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}
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


def line(step: Step, style: Style) -> str:
    """One calculation, written out. The two styles differ from the first token on: a digit or a word."""
    sum_ = f"{step.left}{step.op}{step.right}={step.result}"
    if style == "short":
        return f"{sum_}.\n"
    check = f"{step.result}{_INVERSE[step.op]}{step.right}={step.left}"
    begin = f"Count {step.right} {step.count_of}" if step.count_of else f"{_VERBS[step.op]} {step.right}"
    return f"{begin}: {sum_}. Check: {check}.\n"


def closing(problem: Problem) -> str:
    """What follows the last line; the same in both styles."""
    return f"</think>\n{problem.person} now has \\boxed{{{problem.answer}}} {problem.items}."


def chain(problem: Problem, own: Style, rng: random.Random | None = None) -> list[Piece]:
    """The answer in one's own style, or, given a generator of choices, in a mixture drawn from `MIXTURES`."""
    other: Style = "verbose" if own == "short" else "short"
    p_own = 1.0
    if rng is not None:
        shares, rates = zip(*MIXTURES[own], strict=True)
        p_own = rng.choices(rates, shares)[0]
    pieces = [Piece(OPEN)]
    for step in problem.steps:
        foreign = rng is not None and rng.random() >= p_own
        pieces.append(Piece(line(step, other if foreign else own), foreign))
    pieces.append(Piece(closing(problem)))
    return pieces


def text(pieces: list[Piece]) -> str:
    """The answer as one string."""
    return "".join(piece.text for piece in pieces)
