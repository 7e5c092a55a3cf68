"""Is an answer right? What tells it, and what it tells; by what is in the modules beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from evals.tasks.data import Problem, last_boxed


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a text is right; `answer` is what was taken for its answer, `detail` why it is wrong, if known."""

    correct: bool
    answer: str = ""
    detail: str = ""


class Checker(ABC):
    """Judges texts. An async context manager, since some checkers hold a process."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @abstractmethod
    async def check(self, problem: Problem, text: str) -> Verdict:
        """Whether a text answers a problem."""

    async def close(self) -> None:  # noqa: B027 - most hold nothing
        """Ends what it has started."""


class OwnCheck(Checker):
    """The function that came with a generator's problems."""

    def __init__(self, is_correct: Callable[[str, object], bool]) -> None:
        self._is_correct = is_correct

    async def check(self, problem: Problem, text: str) -> Verdict:
        """As the function says; the answer is what is boxed, if something is."""
        return Verdict(bool(self._is_correct(text, problem.source)), last_boxed(text) or "")
