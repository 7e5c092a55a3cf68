"""What is asked: problems of a tiny domain, or a file of questions. Knows nothing of models."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evals.tasks.data import last_boxed, read_rows
from evals.tasks.tiny.domains import DOMAINS
from evals.tasks.tiny.splits import SPLITS, AnyProblem
from rstitch.errors import invalid

_DOMAINS = {"tiny": "words", "programs": "programs"}
_MAX_NEW_TOKENS = 1_024  # of an answer to a question from a file
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and whether a text answers it; `is_right` is None where the answer is not known."""

    text: str
    is_right: Callable[[str], bool] | None


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions that are predicted from, those after them for the check, and the longest answer."""

    questions: list[Question]
    for_check: list[Question]
    max_new_tokens: int
    source: str


def load(data: str, n: int, n_check: int = 0) -> Asked:
    """Questions of `tiny:SPLIT`, `programs:SPLIT` or a JSONL file (`question`, and `answer` where it is known).

    Raises: RstitchError for an unknown split, a file that cannot be read, too few questions.
    """
    name, _, split = data.partition(":")
    if name in _DOMAINS and split:
        if split not in SPLITS:
            raise invalid("--data", f"there is no split {split!r}.", f"Take one of {', '.join(SPLITS)}.")
        if split == "test":
            raise invalid("--data", "a test split is never tuned on.", f"Use {name}:dev.")
        domain = DOMAINS[_DOMAINS[name]]

        def judged(problem: AnyProblem) -> Question:
            return Question(problem.question, lambda text: domain.is_correct(text, problem))

        questions = [judged(problem) for problem in domain.generator.problems(split, n + n_check)]
        return Asked(questions[:n], questions[n:], domain.max_new_tokens, data)
    questions = _from_file(Path(data))
    if len(questions) < n + n_check:
        raise invalid("--data", f"{data} has {len(questions)} questions, {n + n_check} are needed.", "Lower --n.")
    return Asked(questions[:n], questions[n : n + n_check], _MAX_NEW_TOKENS, data)


def final_answer(text: str) -> str:
    """What a text ends in: the last `\\boxed{}`, else the last number, else the last line."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.replace(" ", "")
    numbers = _NUMBER.findall(text)
    if numbers:
        return str(numbers[-1]).replace(",", "").rstrip(".")
    return text.strip().rpartition("\n")[2]


def agrees(answer: str) -> Callable[[str], bool]:
    """Whether a text ends in the same as `answer` does."""
    expected = final_answer(answer)
    return lambda text: final_answer(text) == expected


def _from_file(path: Path) -> list[Question]:
    questions = []
    for where, row in read_rows(path):
        if "question" not in row:
            raise invalid("--data", f"{where}: there is no question.", 'Write {"question": "..."} per line.')
        answer = row.get("answer")
        questions.append(Question(str(row["question"]), None if answer is None else agrees(str(answer))))
    return questions
