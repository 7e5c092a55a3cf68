"""The problems of a task: from the hub, from a file, or written by a generator."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.tasks.task import BY_ANSWER, Hub, Task
from rstitch.errors import RstitchError, invalid

_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
# Enough of a generator's problems to notice that it has changed.
_NUM_DIGESTED = 16

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question.

    Attributes:
        index: its place among the task's problems.
        id: what the data calls it, else its index.
        prompt: as it is asked.
        reference: the right answer, if the data has one.
        row: its columns by our names, and whatever else the data has.
        source: what a generator made.
    """

    index: int
    id: str
    prompt: str
    reference: str
    row: Row = field(default_factory=dict)
    source: Any = None


@dataclass(frozen=True, slots=True)
class Data:
    """Problems, where they came from in words, and a digest of what they are."""

    problems: list[Problem]
    source: str
    digest: str


def load_data(task: Task, file: Path | None = None, split: str = "", seed: int = 0, n: int | None = None) -> Data:
    """The first `n` problems (None: all; of a generator 500).

    Raises: RstitchError (INVALID_ARGUMENT) that names the file, the line and the column.
    """
    if task.generator is not None:
        if file is not None:
            raise invalid("--data", f"{task.name} writes its own problems.", "Leave it out.")
        return _generated(task, split, seed, 500 if n is None else n)
    if split:
        raise invalid("--split", f"{task.name} has the split of its file alone.", "Leave it out, or edit a copy.")
    rows = _from_hub(task) if file is None else read_rows(file)
    source = str(file.name) if file else f"{task.hub.dataset} {task.hub.config} {task.hub.split}" if task.hub else ""
    if not rows:
        raise invalid("--data", f"{source} holds no problem.", "Give a file with one JSON object per line.")
    digest = hashlib.sha256(json.dumps([row for _, row in rows], sort_keys=True, default=str).encode())
    problems = [_problem(task, index, where, row) for index, (where, row) in enumerate(rows[:n])]
    return Data(problems, source, digest.hexdigest()[:12])


def function_of(path: str) -> Callable[..., Any]:
    """Finds the function that `module:function` names. Raises: RstitchError (INVALID_ARGUMENT)."""
    module, _, name = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise invalid("--task", f"generator {path}: {error}.", "Name a function that Python finds.") from None
    return found


def fill(template: str, row: Row) -> str:
    """The template with columns in their places; a list becomes lines."""

    def column(match: re.Match[str]) -> str:
        if match[1] not in row:
            problem = f"{match[0]} stands in a template and is no column."
            raise invalid("--task", problem, f"Columns are {', '.join(row)}.")
        return _text(row[match[1]], "\n")

    return _PLACE.sub(column, template)


def last_boxed(text: str) -> str | None:
    """What the last \\boxed{} of a text holds, braces balanced; None if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None


def _generated(task: Task, split: str, seed: int, n: int) -> Data:
    assert task.generator is not None
    split = split or task.generator.splits[0]
    if split not in task.generator.splits:
        raise invalid("--split", f"{split!r} is none of {task.name}.", f"Choose of {', '.join(task.generator.splits)}.")
    problems = written(task, split, max(n, _NUM_DIGESTED), seed)
    digest = hashlib.sha256(repr([problem.row for problem in problems[:_NUM_DIGESTED]]).encode())
    return Data(problems[:n], f"{task.generator.problems} {split} seed {seed}", digest.hexdigest()[:12])


def written(task: Task, split: str, n: int, seed: int) -> list[Problem]:
    """So many problems of a split of a task that writes its own; also of one that is trained on."""
    assert task.generator is not None
    problems = []
    for index, source in enumerate(function_of(task.generator.problems)(split, n, seed)):
        row = {"question": source.question, "answer": str(source.answer)}
        problems.append(Problem(index, str(index), fill(task.prompt, row), row["answer"], row, source))
    return problems


def _problem(task: Task, index: int, where: str, row: Row) -> Problem:
    named = dict(row)
    for name, candidates in task.columns.items():
        found = next((column for column in candidates if row.get(column) is not None), None)
        if found is None and name != "id":
            problem = f"{where}: there is no column {' or '.join(candidates)}, only {', '.join(row)}."
            raise invalid("--data", problem, f"Rename it, or set columns.{name} in a task's file.")
        if found is not None:
            named[name] = row[found]
    if not _text(named["question"], "\n").strip():
        raise invalid("--data", f"{where}: the question is empty.", "Write one, or leave the line out.")
    reference = _reference(task, where, _text(named.get("answer", ""), ", "))
    if task.check in BY_ANSWER and not reference:
        raise invalid("--data", f"{where}: the answer is empty.", "Write the right one, or leave the line out.")
    return Problem(index, str(named.get("id", index)), fill(task.prompt, named).strip(), reference, named)


def _reference(task: Task, where: str, answer: str) -> str:
    if task.reference == "boxed":
        return (last_boxed(answer) or answer).strip()
    if not task.reference:
        return answer.strip()
    found = re.findall(task.reference, answer)
    if not found:
        raise invalid("--data", f"{where}: the answer has nothing like {task.reference}.", "Is it the task's data?")
    return (found[-1] if isinstance(found[-1], str) else found[-1][0]).strip()


def _text(value: Any, between: str) -> str:
    return between.join(str(part) for part in value) if isinstance(value, (list, tuple)) else str(value)


def read_rows(path: Path) -> list[tuple[str, Row]]:
    """Objects of a .jsonl or .json file, each with where it stands. Raises: RstitchError that names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is no UTF-8: {error}"
        raise invalid("--data", f"{path}: {why}.", "Give a .jsonl or .json file.") from None
    if path.suffix == ".json":
        rows = _parsed(path, text, 1)
        if not isinstance(rows, list):
            raise invalid("--data", f"{path}: it is no list.", "A .json file holds one list of objects.")
        placed = [(f"{path}, problem {number}", row) for number, row in enumerate(rows, 1)]
    else:
        lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
        placed = [(f"{path}, line {number}", _parsed(path, line, number)) for number, line in lines]
    for where, row in placed:
        if not isinstance(row, dict):
            raise invalid("--data", f"{where}: {type(row).__name__} is no object.", 'Write {"question": ..., ...}.')
    return placed


def _parsed(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {line + error.lineno - 1}"
        raise invalid("--data", f"{where}: it is no JSON: {error.msg}.", "Write one JSON object per line.") from None


def _from_hub(task: Task) -> list[tuple[str, Row]]:
    hub = task.hub
    if hub is None:
        raise invalid("--data", f"{task.name} has no dataset of its own.", "Give a file: --data FILE.")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise _no_hub(hub, "the package `datasets` is not installed (pip install 'rstitch[hub]')") from None
    try:
        rows = datasets.load_dataset(hub.dataset, hub.config or None, split=hub.split, revision=hub.revision or None)
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such dataset, no such split
        raise _no_hub(hub, " ".join(str(error).split())[:300]) from None
    return [(f"{hub.dataset}, row {number}", dict(row)) for number, row in enumerate(rows)]


def _no_hub(hub: Hub, why: str) -> RstitchError:
    problem = f"{hub.dataset} could not be had: {why.rstrip('.')}."
    return invalid("--task", problem, "With the data on disk: --data FILE.")
