"""Who judges the answers of a task."""

from __future__ import annotations

from evals.checking.checker import Checker, OwnCheck
from evals.checking.math import MathCheck
from evals.checking.python import PythonCheck
from evals.checking.text import TextCheck
from evals.tasks.data import function_of
from evals.tasks.task import PYTHON, Task


def checker_of(task: Task) -> Checker:
    """Its own check, a function of the user's, a comparison of texts, or math-verify.

    Raises: RstitchError (INVALID_ARGUMENT) if that cannot be done here.
    """
    if task.generator is not None:
        return OwnCheck(function_of(task.generator.check))
    if task.check.startswith(PYTHON):
        return PythonCheck(task.check.removeprefix(PYTHON))
    return MathCheck() if task.check == "math" else TextCheck(must_box=task.check == "boxed")
