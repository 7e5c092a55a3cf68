"""A task as its file says it: where the problems are, how they are asked, how answers are checked.

It neither loads problems (`data`) nor checks answers (`evals.answers`).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rstitch.errors import RstitchError, invalid

FOLDER = Path(__file__).parent
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# Checks that compare an answer with that of the data.
BY_ANSWER = ("math", "boxed", "exact")
PYTHON = "python:"
_PYTHON = re.compile(r"python:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_CHECKS = 'Choose "math", "boxed", "exact" or "python:module.function".'


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(_Strict):
    """A dataset of the Hugging Face hub."""

    dataset: str
    config: str = ""
    split: str
    revision: str = ""


class Generator(_Strict):
    """Problems that a function writes.

    Attributes:
        problems: `module:function`; called with (split, n, seed), gives n objects with `question` and `answer`; the
            first n do not depend on n.
        check: `module:function`; called with (text, one of these objects), says whether the text is right.
        splits: those that may be asked; the first is the default.
        train, dev: splits to train heads on and to choose them on; empty: there is none to train with.
        solution: `module:function`; called with one of these objects, gives a whole worked answer to it, as the SLM
            would write it; empty: there are none.
    """

    problems: str = Field(pattern=_FUNCTION.pattern)
    check: str = Field(pattern=_FUNCTION.pattern)
    splits: tuple[str, ...] = Field(default=("test",), min_length=1)
    train: str = ""
    dev: str = ""
    solution: str = Field(default="", pattern=rf"(?:{_FUNCTION.pattern})?")


class Recommended(_Strict):
    """Sampling that the task's figures are usually given for."""

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=0.0, ge=0, le=1)
    samples: int = Field(default=1, ge=1)


class Task(_Strict):
    """One task.

    Attributes:
        name: that of its file.
        digest: of its file, so that a run can tell whether the task is still what it was.
        columns: our names to the names that a dataset may have for them; the first that is there counts.
        prompt: the question as it is asked; `{column}` stands for a column.
        system: a message before it.
        input: through the models' chat template, or as plain text.
        reference: what is taken of the answer's column: all, a regular expression's first group, or, for "boxed",
            what is in its last \\boxed{}, if it has one.
        check: "math" (math-verify), "boxed" (the last \\boxed{} as text), "exact" (that, or the last line) or
            "python:module.function"; a generator has its own.
    """

    name: str
    digest: str
    title: str
    hub: Hub | None = None
    generator: Generator | None = None
    columns: dict[str, tuple[str, ...]] = {}
    prompt: str = "{question}"
    system: str = ""
    input: Literal["chat", "text"] = "chat"
    stop: tuple[str, ...] = ()
    reference: str = ""
    check: str = "generator"
    max_new_tokens: int = Field(ge=1)
    sampling: Recommended = Recommended()

    @model_validator(mode="after")
    def _is_complete(self) -> Task:
        if (self.generator is None) == (self.check == "generator"):
            raise ValueError(f"a generator brings its own check; other tasks need `check`. {_CHECKS}")
        if self.check not in (*BY_ANSWER, "generator") and not _PYTHON.fullmatch(self.check):
            elsewhere = " What runs code is Inspect (docs/evaluation.md)." if self.check == "code" else ""
            raise ValueError(f"there is no check {self.check!r}.{elsewhere} {_CHECKS}")
        if self.generator is None and "question" not in self.columns:
            raise ValueError("columns.question is missing")
        if self.check in BY_ANSWER and "answer" not in self.columns:
            raise ValueError("columns.answer is missing")
        try:
            if self.reference not in ("", "boxed") and re.compile(self.reference).groups < 1:
                raise ValueError("reference needs a group: what is in it is the answer")
        except re.error as error:
            raise ValueError(f"reference is no regular expression: {error}") from None
        return self


def names() -> list[str]:
    """The tasks that come with this package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Task:
    """A task by its name, or from its file. Raises: RstitchError (INVALID_ARGUMENT) that names file and field."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.suffix or (path.parent == FOLDER and path.stem not in names()):
        raise invalid(
            "--task", f"there is no task {name!r}.", f"Choose one of {', '.join(names())}, or give a .toml file."
        )
    try:
        content = path.read_bytes()
        fields = tomllib.loads(content.decode())
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _unreadable(path, f"it is no TOML: {error}") from None
    digest = hashlib.sha256(content).hexdigest()[:12]
    try:
        return Task.model_validate(fields | {"name": path.stem, "digest": digest})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise _unreadable(path, f"{field}: {message}" if field else message) from None


def chosen(
    task: str | None,
    data: Path | None,
    check: str | None,
    prompt: str = "{question}",
    max_new_tokens: int | None = None,
) -> Task:
    """The task of that name, or one made for a file of questions. Raises: RstitchError (INVALID_ARGUMENT)."""
    if task and check:
        raise invalid("--check", f"the task {task} has a check of its own.", "Leave out one of the two.")
    if task:
        return load(task)
    if data is None or check is None:
        remedy = f"Choose a task of {', '.join(names())}, or give --data FILE --check CHECK. {_CHECKS}"
        raise invalid("--task", "neither a task nor a file and its check are named.", remedy)
    return of_file(data, check, prompt, max_new_tokens or 1024)


def of_file(data: Path, check: str, prompt: str = "{question}", max_new_tokens: int = 1024) -> Task:
    """A task for a file of questions that has none: columns `question` and `answer`.

    Raises: RstitchError (INVALID_ARGUMENT) that names the flag.
    """
    fields: dict[str, Any] = {"prompt": prompt, "check": check, "max_new_tokens": max_new_tokens}
    columns: dict[str, tuple[str, ...]] = {name: (name,) for name in ("question", "id")}
    if check in BY_ANSWER:  # a function of the user's sees the row as it is
        columns["answer"] = ("answer",)
    if check == "boxed":
        fields["reference"] = "boxed"
    digest = hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:12]
    try:
        return Task(name=data.stem, digest=digest, title=f"questions of {data.name}", columns=columns, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = {"prompt": "--prompt", "max_new_tokens": "--max-new-tokens"}.get(str((*first["loc"], "")[0]), "--check")
        message = first["msg"].removeprefix("Value error, ").removesuffix(_CHECKS).strip()
        raise invalid(field, message, _CHECKS if field == "--check" else "See docs/evaluation.md.") from None


def _unreadable(path: Path, why: str) -> RstitchError:
    return invalid("--task", f"{path}: {why.rstrip('.')}.", "docs/evaluation.md says what a task file holds.")
