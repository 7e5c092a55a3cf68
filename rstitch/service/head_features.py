"""What a head of R-Stitch+ may be shown beside hidden state and context length (ours): numbers by name.

A head's file names the ones that it takes. All of them are known where the head is asked, in the worker as in the
router, and all come from the answer so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NUM_RECENT = 16  # entropies before the position that a head can be shown
_NUM_SINGLE = 4  # of these, the last ones that it is shown one by one
_MOST_LEFT = 1024  # LLM tokens; a budget of more is as good as none
_MIN_ENTROPY = 1e-6


@dataclass(frozen=True, slots=True)
class Situation:
    """Says where an answer stands when its head is asked.

    Attributes:
        entropy: the SLM's at the position, in [0, 1].
        recent: of the answer's last tokens before it, oldest first; of more than `NUM_RECENT` the last ones count.
        segment_length: tokens that the SLM has written since it got the pen.
        num_llm_tokens: tokens of the answer by the LLM.
        llm_tokens_left: that the LLM may still write; None: no bound.
    """

    entropy: float = 0.0
    recent: Sequence[float] = ()
    segment_length: int = 0
    num_llm_tokens: int = 0
    llm_tokens_left: int | None = None


def _entropy(situation: Situation) -> list[float]:
    return [situation.entropy, math.log(max(situation.entropy, _MIN_ENTROPY))]


def _recent(situation: Situation) -> list[float]:
    """The last four, newest first (0 where there was none), and the mean and the largest of the last sixteen."""
    last = list(situation.recent)[-NUM_RECENT:]
    single = last[: -_NUM_SINGLE - 1 : -1]
    single += [0.0] * (_NUM_SINGLE - len(single))
    return [*single, math.fsum(last) / len(last) if last else 0.0, max(last, default=0.0)]


def _segment(situation: Situation) -> list[float]:
    return [math.log1p(situation.segment_length)]


def _spent(situation: Situation) -> list[float]:
    return [math.log1p(situation.num_llm_tokens)]


def _left(situation: Situation) -> list[float]:
    left = _MOST_LEFT if situation.llm_tokens_left is None else min(situation.llm_tokens_left, _MOST_LEFT)
    return [math.log1p(left)]


# By name: how many numbers, and which.
_FEATURES = {"entropy": (2, _entropy), "recent": (6, _recent), "segment": (1, _segment), "spent": (1, _spent),
             "left": (1, _left)}  # fmt: skip
NAMES = tuple(_FEATURES)
# The names whose numbers depend on what the LLM is about to write: with them the SLM cannot run ahead of it.
LOOKING_BACK = frozenset(NAMES) - {"entropy"}


# Of names whose range is known: mean and standard deviation of a number that is anywhere in it, in that order. What an
# answer is learned from rarely has a bound, so that examples would say that this number never differs.
_FULL = math.log1p(_MOST_LEFT)
_SCALES = {"left": ((_FULL / 2, _FULL / math.sqrt(12)),)}


def num_numbers(names: Sequence[str]) -> int:
    """Counts the numbers of these features. Raises KeyError for a name that is none."""
    return sum(_FEATURES[name][0] for name in names)


def known_scales(names: Sequence[str]) -> dict[int, tuple[float, float]]:
    """Says mean and standard deviation of the numbers whose range is known, by their index."""
    return {
        num_numbers(names[:place]) + index: scale
        for place, name in enumerate(names)
        for index, scale in enumerate(_SCALES.get(name, ()))
    }


def numbers(names: Sequence[str], situation: Situation) -> list[float]:
    """Gives the numbers of these features, in their order."""
    return [number for name in names for number in _FEATURES[name][1](situation)]
