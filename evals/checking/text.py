"""Answers that are words or numbers are right if they are written as the data's are, but for case and spaces."""

from __future__ import annotations

import re
import unicodedata

from evals.checking.checker import Checker, Verdict
from evals.tasks.data import Problem, last_boxed

_LEAD = re.compile(r"(?:so\W+)?(?:the\s+)?(?:final\s+)?answer\s*(?:is\b|:)\s*", re.IGNORECASE)


class TextCheck(Checker):
    """Compares texts.

    Args:
        must_box: only what the last \\boxed{} holds counts; else, where there is none, the last line that is not empty.
    """

    def __init__(self, must_box: bool) -> None:
        self._must_box = must_box

    async def check(self, problem: Problem, text: str) -> Verdict:
        """The answer is what was compared."""
        answer = last_boxed(text)
        if answer is None and self._must_box:
            return Verdict(False, detail="there is no \\boxed{}")
        if answer is None:
            answer = last_line(text)
        return Verdict(normalised(answer) == normalised(problem.reference), answer.strip())


def last_line(text: str) -> str:
    """The last line that is not empty, without "The answer is" before it."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()
    return _LEAD.sub("", line, count=1) if _LEAD.match(line) else line


def normalised(answer: str) -> str:
    """The answer in one case and width, with single spaces; no dollar signs or stars around it, no stop after it."""
    plain = unicodedata.normalize("NFKC", answer).casefold().strip()
    return " ".join(plain.strip("$*").rstrip(".").strip("$* ").split())
