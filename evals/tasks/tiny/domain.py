"""What a tiny domain is: its problems, the check of an answer, and how a solution is written in either style.

All the rest of a tiny pair (mixing of styles, tokenizer, training, export, evaluation) is the same for every domain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal

from evals.tasks.tiny.splits import Generator, P

Style = Literal["short", "verbose"]
OPEN = "<think>\n"  # with which every answer begins


@dataclass(frozen=True, slots=True)
class Domain(Generic[P]):
    """A kind of problems, with what writes and what judges them."""

    name: str
    generator: Generator[P]
    is_correct: Callable[[str, P], bool]
    line: Callable[[Any, Style], str]  # a step of a problem as one line, ended by a newline
    closing: Callable[[P], str]  # what follows the last line; the same in both styles
    max_new_tokens: int  # more than the longest answer has
    sample: P  # the problem that a model card shows
    about: str  # for model cards: "A ...-parameter model that {about}"
    data: str  # for model cards: where the problems come from
    limits: str  # for model cards: what the models do not know

    def lines(self, problem: P, style: Style) -> list[str]:
        """The chain of thought: in both styles as many lines."""
        return [self.line(step, style) for step in problem.steps]

    def solution(self, problem: P, style: Style = "short") -> str:
        """A whole right answer in one style; that of the SLM is "short"."""
        return "".join([OPEN, *self.lines(problem, style), self.closing(problem)])
