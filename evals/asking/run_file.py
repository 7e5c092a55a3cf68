"""A run as a file: one line that says what it is, then one line per answer. Written as it goes, read to go on.

{"configuration": {...}}       what an answer's line depends on; a run goes on in a file of the same only
{"provenance": {...}}          once per start: commit, machine, command, day
{"system": ..., "problem": ..., "sample": ..., ...}        a `Record`
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from evals.asking.record import Part, Question, Record
from rstitch.errors import RstitchError, invalid


class RunFile(AbstractContextManager["RunFile"]):
    """The file of a run, open to be gone on with; a context manager.

    Raises: RstitchError (INVALID_ARGUMENT) if the file is of another configuration, broken, or being written.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], provenance: Mapping[str, str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = self._go_on(path, configuration)
            self.records, self._known = found.records, set(found.questions)
        except BlockingIOError:
            self._file.close()
            raise invalid("--out", f"{path} is being written by another run.", "Wait, or name another file.") from None
        except RstitchError:
            self._file.close()
            raise
        self._write({"provenance": provenance})

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def ask(self, questions: Iterable[Question]) -> None:
        """Writes down the questions that are not there yet."""
        for question in questions:
            if question.index not in self._known:
                self._known.add(question.index)
                self._write({"question": asdict(question)})

    def append(self, record: Record) -> None:
        """Writes one more answer; it is on disk when this returns."""
        self._write(asdict(record))

    def _go_on(self, path: Path, configuration: Mapping[str, Any]) -> Run:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind("\n") + 1]
        if len(whole) < len(content):  # the last line was being written when the run ended
            self._file.truncate(len(whole.encode()))
        if not whole:
            self._write({"configuration": configuration})
            return Run(dict(configuration))
        found = _parse(path, whole)
        for key in configuration.keys() | found.configuration.keys():
            theirs, ours = found.configuration.get(key), configuration.get(key)
            if theirs != ours:
                different = f"{path} is a run with {key} {theirs!r}, not {ours!r}."
                raise invalid("--out", different, "Name another file, or go on as it was.")
        return found

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._file.flush()


@dataclass(frozen=True, slots=True)
class Run:
    """The answers of one run, as its file holds them."""

    configuration: dict[str, Any] = field(default_factory=dict)
    provenance: list[dict[str, str]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    questions: dict[int, Question] = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """Names of the systems: the models alone first, then by name and numbers."""
        return sorted({record.system for record in self.records}, key=_rank)

    def require(self, systems: Iterable[str]) -> None:
        """Raises RstitchError (INVALID_ARGUMENT) for one that has no answers here."""
        for system in systems:
            if system not in self.systems:
                raise invalid("--systems", f"{system} is none of the run.", f"Choose of {' '.join(self.systems)}.")

    def of(self, system: str) -> list[Record]:
        """The answers of a system, by problem and sample."""
        return sorted((record for record in self.records if record.system == system), key=lambda record: record.key)


def read(paths: Iterable[Path]) -> Run:
    """Reads one or more files of the same task as one run; a system counts where it is first found.

    Raises: RstitchError (INVALID_ARGUMENT) for what is no run, empty, or of two tasks.
    """
    runs = []
    for path in paths:
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise invalid("FILE", f"{path}: {error}.", "Give a file of `rstitch eval run`.") from None
        found = _parse(path, content[: content.rfind("\n") + 1])
        runs.append(found)
        for key in ("task", "task_digest", "data_digest"):
            if found.configuration.get(key) != runs[0].configuration.get(key):
                raise invalid("FILE", f"{path} has another {key}.", "Report the runs of one task together.")
    merged: dict[str, list[Record]] = {}
    for run in runs:
        for system in run.systems:
            merged.setdefault(system, run.of(system))
    records = [record for found in merged.values() for record in found]
    if not records:
        raise invalid("FILE", "there is no answer in it.", "Begin with `rstitch eval run`.")
    questions = {index: question for run in runs for index, question in run.questions.items()}
    return Run(runs[0].configuration, [line for run in runs for line in run.provenance], records, questions)


def _rank(system: str) -> tuple[int, list[tuple[float, str]]]:
    alone = ("llm_only", "slm_only")
    words = [(float(part), "") if part[:1].isdigit() else (0.0, part) for part in re.split(r"(\d+(?:\.\d+)?)", system)]
    return alone.index(system) if system in alone else len(alone), words


def _parse(path: Path, content: str) -> Run:
    run = Run()
    names = {item.name for item in fields(Record)}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            plain = json.loads(line)
            if number == 1:
                run.configuration.update(plain["configuration"])
            elif "provenance" in plain:
                run.provenance.append(plain["provenance"])
            elif "question" in plain:
                question = Question(**plain["question"])
                run.questions[question.index] = question
            else:
                plain["parts"] = tuple(Part(**part) for part in plain["parts"])
                for name in ("tokens", "entropies", "budget_spent"):
                    plain[name] = tuple(plain[name])
                run.records.append(Record(**{name: value for name, value in plain.items() if name in names}))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            told = f"{path}, line {number}: this is no run of an evaluation ({error!r})."
            raise invalid("FILE", told, "Name another file.") from None
    return run
