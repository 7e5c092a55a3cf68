"""The questions to calibrate on: a file of the user's, or a generated task. Split in two at random."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

from evals.checking.checker import Checker, OwnCheck
from evals.checking.math import MathCheck
from evals.tasks import task as tasks
from evals.tasks.data import Problem, Row, function_of, load_data, read_rows
from rstitch.errors import invalid

_EXAMPLE = 'Write one JSON object per line, such as {"question": "...", "answer": "42"}.'


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions, where they come from, and whether their answers are known.

    Attributes:
        digest: of what is asked.
    """

    problems: list[Problem]
    source: str
    digest: str
    checker: Checker | None

    def split(self, seed: int) -> tuple[list[Problem], list[Problem]]:
        """Half to calibrate on, half to check with, drawn at random. Raises: RstitchError if there are fewer than 4."""
        if len(self.problems) < 4:
            raise invalid("--data", f"{self.source} holds {len(self.problems)} questions.", "Give at least 4.")
        drawn = random.Random(seed).sample(self.problems, len(self.problems))
        half = (len(drawn) + 1) // 2
        return drawn[:half], drawn[half:]


def load_questions(data: str, n: int, seed: int, needs_answers: bool) -> Questions:
    """Questions of `FILE` (.jsonl) or of `TASK:SPLIT` for a task that writes its own, such as tiny:calibration.

    Args:
        n: at most so many; of a file all if 0, of a task 200.

    Raises: RstitchError (INVALID_ARGUMENT) that names the file, the line and the remedy.
    """
    if n < 0:
        raise invalid("--n", f"{n} is no number of questions.", "Give 0 for all, or more.")
    name, _, split = data.partition(":")
    if name in tasks.names() and not Path(data).exists():
        return _of_task(name, split, n or 200, seed)
    path = Path(data)
    rows = read_rows(path)
    if not rows:
        raise invalid("--data", f"{path} is empty.", _EXAMPLE)
    problems = [_problem(number, where, row, needs_answers) for number, (where, row) in enumerate(rows, 1)][: n or None]
    checker = MathCheck() if needs_answers else None
    return Questions(problems, path.name, _digest(problems), checker)


def _of_task(name: str, split: str, n: int, seed: int) -> Questions:
    task = tasks.load(name)
    if task.generator is None:
        raise invalid("--data", f"the task {name} writes no questions of its own.", "Give a .jsonl file.")
    if "test" in (split or task.generator.splits[0]):
        raise invalid("--data", "a test split is never tuned on.", f"Use {name}:calibration.")
    data = load_data(task, split=split, seed=seed, n=n)
    checker = OwnCheck(function_of(task.generator.check))
    return Questions(data.problems, f"{name}:{split} seed {seed}", _digest(data.problems), checker)


def _problem(number: int, where: str, row: Row, needs_answers: bool) -> Problem:
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise invalid("--data", f"{where}: there is no question.", _EXAMPLE)
    if needs_answers and (answer is None or not str(answer).strip()):
        raise invalid("--data", f"{where}: there is no answer, and a loss of accuracy needs them.", _EXAMPLE)
    return Problem(number, str(row.get("id", number)), question, "" if answer is None else str(answer), row)


def _digest(problems: list[Problem]) -> str:
    return hashlib.sha256(json.dumps([p.prompt for p in problems]).encode()).hexdigest()[:12]
