"""A function of the user's judges: `check(text, row)` says whether a text is right, `row` being a line of the data."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evals.checking.checker import Checker, Verdict
from evals.tasks.data import Problem, last_boxed
from rstitch.errors import invalid


class PythonCheck(Checker):
    """Calls a function, for one answer at a time, in a thread: it may take as long as it likes.

    Args:
        path: `module.function`; modules of the current folder are found, too. Raises RstitchError (INVALID_ARGUMENT).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._function = _found(path)
        self._lock = asyncio.Lock()

    async def check(self, problem: Problem, text: str) -> Verdict:
        """As the function says.

        Raises: RstitchError (INVALID_ARGUMENT), naming the problem, if it fails or says neither True nor False. To go
            on would teach or measure something that nobody asked for.
        """
        row = {**problem.row, "answer": problem.reference or problem.row.get("answer"), "id": problem.id}
        async with self._lock:
            try:
                said = await asyncio.to_thread(self._function, text, row)
            except Exception as error:
                what = f"{self._path} failed on problem {problem.id}: {type(error).__name__}: {error}."
                raise invalid("--check", what, "Make it say False where a text cannot be read.") from error
        if not isinstance(said, bool):
            what = f"{self._path} said {said!r} of problem {problem.id}."
            raise invalid("--check", what, "Make it return True or False.")
        return Verdict(said, last_boxed(text) or "")


def _found(path: str) -> Callable[[str, dict[str, Any]], Any]:
    module, _, name = path.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:  # not so in a command that pip installed
        sys.path.append(here)
    try:
        found: Callable[[str, dict[str, Any]], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise invalid("--check", f"python:{path}: {error}.", "Name module.function as Python finds it here.") from None
    if not callable(found):
        raise invalid("--check", f"python:{path} is no function.", "Name one that takes (text, row).")
    return found
