"""Questions for the tiny pair, none of which it was trained on, with their answers. Text only; it asks nobody."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOXED = re.compile(r"\\boxed\{\s*(-?\d+)\s*\}")

# Where the LLM takes over from the SLM in the demo; chosen for the tiny pair (docs/results.md).
DEMO_TAU = 0.02


@dataclass(frozen=True, slots=True)
class Example:
    """A question, and the number that answers it."""

    question: str
    answer: int

    def is_solved_by(self, text: str) -> bool:
        """Says whether the last boxed number of `text` is the right one."""
        return boxed(text) == self.answer


def boxed(text: str) -> int | None:
    r"""Reads the number in the last `\boxed{}` of an answer; None without one."""
    found = _BOXED.findall(text)
    return int(found[-1]) if found else None


# The first three show the demo's cases: one that both models solve and two where the LLM's few tokens save the answer.
# The fourth is one that stitching does not save. tests/cli/test_up.py asks the second of the bundled pair.
EXAMPLES = (
    Example(
        "Yuki has 38 marbles. Then she triples the number of marbles. She gives 31 to Hugo. She works until she has 4 "
        "times as many. How many marbles does Yuki have now?",
        332,
    ),
    Example(
        "Rosa has 225 books. She shares them equally among 3 boxes and keeps one box. Then she doubles the number of "
        "books. She trades 73 of them for a kite. She buys 5 jars of 28 books each. Then she loses 90 of them. How "
        "many books does Rosa have now?",
        127,
    ),
    Example(
        "Hugo has 79 plums. He sells 39 plums. He divides them fairly among 2 friends, and he is one of the friends. "
        "He splits them into 5 equal piles and keeps one pile. Soon he has 4 times as many plums. How many plums does "
        "Hugo have now?",
        16,
    ),
    Example(
        "Nina has 296 stones. Then she loses 25 of them. She sells 79 stones. She buys 3 boxes of 17 stones each. She "
        "trades 44 of them for a kite. How many stones does Nina have now?",
        199,
    ),
    Example(
        "Hugo has 64 coins. He splits them into 2 equal piles and keeps one pile. He divides them fairly among 2 "
        "friends, and he is one of the friends. He buys 5 jars of 29 coins each. How many coins does Hugo have now?",
        161,
    ),
    Example(
        "Ada has 28 seeds. She buys 3 bags of 6 seeds each. How many seeds does Ada have now?",
        46,
    ),
    Example(
        "Ada has 381 stickers. She wins 44 stickers. She wins 66 stickers. She wins 285 stickers. How many stickers "
        "does Ada have now?",
        776,
    ),
    Example(
        "Kofi has 74 balloons. He splits them into 2 equal piles and keeps one pile. Then he buys 77 balloons. Soon he"
        " has 3 times as many balloons. He gives 67 to Max. He splits them into 5 equal piles and keeps one pile. How "
        "many balloons does Kofi have now?",
        55,
    ),
)

# What `rstitch up` proposes to ask: the SLM alone gets it wrong, stitched it is right.
PROPOSED = EXAMPLES[1]
