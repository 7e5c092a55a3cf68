"""Who judges the answers of a task."""

from __future__ import annotations

from evals.checking.checker import Checker, OwnCheck
from evals.checking.code import CodeCheck
from evals.checking.math import MathCheck
from evals.tasks.data import function_of
from evals.tasks.task import Task


def checker_of(task: Task) -> Checker:
    """Its own check, its tests in a sandbox, or math-verify.

    Raises: RstitchError (INVALID_ARGUMENT) if that cannot be done here.
    """
    if task.generator is not None:
        return OwnCheck(function_of(task.generator.check))
    return CodeCheck(task.code) if task.code is not None else MathCheck()
