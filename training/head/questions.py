"""Questions to train a head with, to choose it on, and to leave alone. It knows no head and asks nobody.

Which side a question of a file is on is a function of its text: a hash in [0, 1) falls into the share of test, dev or
train. So it stays where it is when the file is put in another order or grows, and a question that is there twice cannot
be on two sides. A task that writes its own problems has splits of its own; its test split is not even written here.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from evals.checking.checker import Checker
from evals.checking.checkers import checker_of
from evals.tasks.data import Problem, function_of, load_data, written
from evals.tasks.task import Task, chosen
from rstitch.errors import invalid
from training.head.files import write_whole
from training.head.split import Split

_NUM_WRITTEN = 10_000, 500  # questions to train with and to choose on, of a task that writes its own
MIN_TRAIN, MIN_DEV = 4, 4


@dataclass(frozen=True, slots=True)
class Origin:
    """Where questions come from, for cards: file or generator, split as asked for, repeated questions left out.

    Attributes:
        flags: with which `rstitch eval run` judges answers in the same way.
        digest: of the task, the split and all questions with their answers.
    """

    source: str
    split: str
    num_repeated: int
    flags: str
    digest: str


@dataclass(frozen=True, slots=True)
class Questions:
    """The three sides, and who judges.

    Attributes:
        test: of a file, for `save_test` alone; of a task that writes its own problems empty.
        checker: of one event loop, and only while it is entered.
    """

    train: list[Problem]
    dev: list[Problem]
    test: list[Problem]
    task: Task
    checker: Checker
    origin: Origin

    @property
    def digest(self) -> str:
        return self.origin.digest

    def save_test(self, path: Path) -> bool:
        """Writes the test side for `rstitch eval run --data`; returns False if the task writes its own."""
        if self.task.generator is not None:
            return False
        lines = "".join(json.dumps(dict(problem.row), ensure_ascii=False, default=str) + "\n" for problem in self.test)
        write_whole(path, lambda file: file.write(lines.encode()))
        return True


def load_questions(
    task: str | None = None, data: Path | None = None, check: str | None = None, *, split: str = "70/10/20",
    seed: int = 1, prompt: str = "{question}", max_new_tokens: int | None = None,
) -> Questions:  # fmt: skip
    """Reads or writes the questions of a task or a file.

    Args:
        task: a name, or a .toml file; or else `data` with a `check` (`evals.tasks.task` has them).
        split: shares or numbers of train, dev and test (`Split`).
        seed: of the training problems of a task that writes its own.
        prompt: of a file without a task; `{column}` stands for a column.
        max_new_tokens: of an answer; None: the task's.

    Raises: RstitchError (INVALID_ARGUMENT) that names the flag or the line and the remedy.
    """
    of = chosen(task, data, check, prompt, max_new_tokens)
    of = of.model_copy(update={"max_new_tokens": max_new_tokens}) if max_new_tokens else of
    shares = Split.parse(split)
    made = _of_file(of, data, shares) if of.generator is None else _generated(of, data, shares, seed)
    made = replace(made, origin=replace(made.origin, flags=_flags(task, check, prompt)))
    for side, least in (("train", MIN_TRAIN), ("dev", MIN_DEV)):
        if (number := len(getattr(made, side))) < least:
            remedy = f"Give at least {least}: more data, or another --split than {split}."
            raise invalid("--data", f"{made.origin.source} leaves {number} questions for {side}.", remedy)
    return made


def solution_of(problem: Problem) -> str | None:
    """A whole worked answer that the data has (column `solution`), for the warm start; None if there is none."""
    solution = problem.row.get("solution")
    return solution if isinstance(solution, str) and solution.strip() else None


def training_problems(task: Task, n: int, seed: int) -> list[Problem]:
    """The first so many problems, with solutions if there are such, of a task that writes its own.

    Raises: RstitchError (INVALID_ARGUMENT) if it does not say which split is there to train with.
    """
    assert task.generator is not None
    if not (task.generator.train and task.generator.dev):
        remedy = "Set generator.train and generator.dev in a copy of its file."
        raise invalid("--task", f"{task.name} names no splits to train with.", remedy)
    problems = written(task, task.generator.train, n, seed)
    if not task.generator.solution:
        return problems
    solve = function_of(task.generator.solution)
    return [replace(problem, row={**problem.row, "solution": solve(problem.source)}) for problem in problems]


def hash_of(question: str) -> float:
    """A number in [0, 1) that is the question's own, whatever its spaces and the form of its characters."""
    plain = " ".join(unicodedata.normalize("NFC", question).split())
    return int(hashlib.sha256(plain.encode()).hexdigest()[:13], 16) / 16**13


def _generated(task: Task, data: Path | None, split: Split, seed: int) -> Questions:
    if data is not None:
        raise invalid("--data", f"{task.name} writes its own problems.", "Leave it out.")
    assert task.generator is not None
    num_train, num_dev = (split.train, split.dev) if split.are_counts else _NUM_WRITTEN
    train = training_problems(task, int(num_train), seed)
    dev = written(task, task.generator.dev, int(num_dev), 0)
    if shared := {problem.prompt for problem in train} & {problem.prompt for problem in dev}:
        what = f"the splits {task.generator.train} and {task.generator.dev} share {min(shared)[:80]!r}."
        raise invalid("--task", what, f"Let {task.generator.problems} keep them apart.")
    source = f"{task.generator.problems} {task.generator.train} seed {seed}, {task.generator.dev} seed 0"
    return _questions(task, train, dev, [], source, split, 0)


def _of_file(task: Task, data: Path | None, split: Split) -> Questions:
    loaded = load_data(task, data)
    by_hash: dict[float, Problem] = {}
    num_repeated = 0
    for problem in loaded.problems:
        first = by_hash.setdefault(hash_of(str(problem.row["question"])), problem)
        num_repeated += first is not problem
        if first.reference != problem.reference:
            which = f"problems {first.id} and {problem.id} are one question with two answers, {first.reference!r} and"
            raise invalid("--data", f"{loaded.source}: {which} {problem.reference!r}.", "Leave one of them out.")
    sides: dict[str, list[Problem]] = {"train": [], "dev": [], "test": []}
    for index, (place, problem) in enumerate(sorted(by_hash.items())):
        sides[split.side(place)].append(replace(problem, index=index))
    if split.are_counts:
        sides = {side: problems[: int(getattr(split, side))] for side, problems in sides.items()}
    return _questions(task, sides["train"], sides["dev"], sides["test"], loaded.source, split, num_repeated)


def _questions(
    task: Task, train: list[Problem], dev: list[Problem], test: list[Problem], source: str, split: Split,
    num_repeated: int,
) -> Questions:  # fmt: skip
    def told(problems: Iterable[Problem]) -> list[tuple[str, str]]:
        return [(problem.prompt, problem.reference) for problem in problems]

    facts = [task.digest, split.text, told(train), told(dev), told(test)]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return Questions(train, dev, test, task, checker_of(task), Origin(source, split.text, num_repeated, "", digest))


def _flags(task: str | None, check: str | None, prompt: str) -> str:
    if task:
        return shlex.join(["--task", Path(task).name if Path(task).is_absolute() else task])
    asked = [] if prompt == "{question}" else ["--prompt", prompt]
    return shlex.join(["--check", str(check), *asked])
