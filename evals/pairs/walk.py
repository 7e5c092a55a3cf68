"""Algorithm 1 walked over two answers that are known already, the SLM's own and the LLM's own, with no model at hand.

Both models have read both answers (`Reading`), so at each place of either text it is known what each of them would
write and how sure it is. A walk begins on the SLM's answer and follows the hand-over rule place by place. Where the
writer would write something else than the text has, that is one of two things:

- its token is in the way of whoever wrote the text (among the few that it held most likely): the writer mends or spoils
  that one place, and the walk goes on behind it;
- it is not: the writer begins a way of its own. The walk changes over to the writer's answer, behind the nearest place
  ahead where that has the token, or else as far along as it was.

Knows nothing of tokenizers, torch or latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evals.algorithm.reference import Author as Role

# The LLM takes a token for wrong to which it gives less than this.
IMPLAUSIBLE = 0.1


@dataclass(frozen=True, slots=True)
class Reading:
    """What one model says at each place of a text.

    Attributes:
        entropy: of its distribution, in [0, 1].
        top: its likeliest tokens [length, k], the best first.
        probability: that it gives the token which stands there.
    """

    entropy: NDArray[np.float32]
    top: NDArray[np.int64]
    probability: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Text:
    """One model's answer as tokens, whether it is right, and what each model says of it."""

    tokens: Sequence[int]
    is_right: bool
    slm: Reading
    llm: Reading

    def by(self, role: Role) -> Reading:
        return self.slm if role == "slm" else self.llm

    def agreement(self, role: Role) -> float:
        """Share of the tokens that the model would have written itself."""
        return float(np.mean(self.by(role).top[:, 0] == np.asarray(self.tokens)))


@dataclass(slots=True)
class Walk:
    """A stitched answer as it is expected.

    Attributes:
        runs: who writes how many tokens in a row, and whether a proposal after them is thrown away.
        is_right: whether it comes out right.
        is_exact: nobody wrote anything else than the SLM's answer has, so that this is Algorithm 1 itself and no guess.
    """

    runs: list[tuple[Role, int, bool]] = field(default_factory=list)
    is_right: bool = False
    is_exact: bool = True

    def count(self, role: Role) -> int:
        return sum(length for model, length, _ in self.runs if model == role)

    @property
    def num_tokens(self) -> int:
        return self.count("slm") + self.count("llm")

    @property
    def num_switches(self) -> int:
        return max(0, len(self.runs) - 1)


def walk(own: Text, others: Text, tau: float) -> Walk:
    """One question's walk: `own` is the SLM's answer, `others` the LLM's.

    It comes out right unless a mistake stands. On the SLM's answer, if that is wrong, a mistake is a token that the
    LLM finds implausible where its own token is in the SLM's way; on the LLM's answer it is a token that the SLM, sure
    of itself, writes where the LLM is certain of another. A wrong answer in which the LLM sees no mistake stays wrong,
    and where the LLM's own answer is wrong, what it mends is too.
    """
    texts: dict[Role, Text] = {"slm": own, "llm": others}
    at: dict[Role, int] = {"slm": 0, "llm": 0}
    path: Role = "slm"
    writer: Role = "slm"
    walked = Walk()
    num_written, num_mistakes = 0, 0
    while at[path] < len(texts[path].tokens):
        text, place = texts[path], at[path]
        reading = text.by(writer)
        unsure = bool(reading.entropy[place] > tau)
        if writer == "slm" and unsure:
            walked.runs.append((writer, num_written, True))
            writer, num_written = "llm", 0
            continue
        num_written += 1
        token, standing = int(reading.top[place, 0]), text.tokens[place]
        at[path] += 1
        if writer == path or token == standing:
            num_mistakes += path == writer == "slm" and _is_mistake(text, place)
        elif token in text.by(path).top[place]:
            walked.is_exact = False
            num_mistakes += writer == "slm" and text.llm.probability[place] > 1 - IMPLAUSIBLE
        else:
            walked.is_exact = False
            at[writer] = _enter(texts[writer].tokens, token, at[writer], place / len(text.tokens))
            path = writer
        if writer == "llm" and not unsure:
            walked.runs.append((writer, num_written, False))
            writer, num_written = "slm", 0
    if num_written:
        walked.runs.append((writer, num_written, False))
    can_be_mended = others.is_right and any(_is_mistake(own, place) for place in range(len(own.tokens)))
    walked.is_right = not num_mistakes and (others.is_right if path == "llm" else own.is_right or can_be_mended)
    return walked


def _is_mistake(own: Text, place: int) -> bool:
    """Whether a token of the SLM's answer is one that the LLM would mend."""
    if own.is_right or own.llm.probability[place] >= IMPLAUSIBLE:
        return False
    return int(own.llm.top[place, 0]) in own.slm.top[place]


def _enter(tokens: Sequence[int], token: int, first: int, progress: float) -> int:
    """Where to go on in an answer after `token` was written: never before `first`, for a walk goes forward only."""
    wanted = max(first, round(progress * len(tokens)))
    places = [place for place in range(first, len(tokens)) if tokens[place] == token]
    return min(places, key=lambda place: abs(place - wanted)) + 1 if places else wanted
