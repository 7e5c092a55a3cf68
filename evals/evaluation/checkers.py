"""Who judges the answers of a task."""

from __future__ import annotations

from evals.answers import Checker, OwnCheck
from evals.answers_code import CodeCheck
from evals.answers_math import MathCheck
from evals.evaluation.data import function_of
from evals.evaluation.task import Task


def checker_of(task: Task) -> Checker:
    """Its own check, its tests in a sandbox, or math-verify.

    Raises: RstitchError (INVALID_ARGUMENT) if that cannot be done here.
    """
    if task.generator is not None:
        return OwnCheck(function_of(task.generator.check))
    return CodeCheck(task.code) if task.code is not None else MathCheck()
