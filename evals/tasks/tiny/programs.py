"""The second domain: tracing programs, each executed statement one line."""

from __future__ import annotations

import random

from evals.tasks.tiny import programs_task as task
from evals.tasks.tiny.domain import Domain, Style
from evals.tasks.tiny.programs_task import Problem, Step, shown

_VERBS = {"if": "Test", "next": "Loop over"}


def line(step: Step, style: Style) -> str:
    """One executed statement: its result alone, or the statement, the values that it reads, and the result.

    The two styles differ from the first token on: a variable or a digit, or a word.
    """
    if style == "short":
        return f"{step.result}.\n"
    reads = " and ".join(f"{name} is {shown(value)}" for name, value in step.reads)
    return f"{_VERBS.get(step.kind, 'Run')} {step.source}: {reads}{', so ' if reads else ''}{step.result}.\n"


def closing(problem: Problem) -> str:
    """The answer's sentence. It names the variable: from there it is one more value to look up."""
    return f"</think>\n{problem.printed}, so it prints \\boxed{{{problem.answer}}}."


PROGRAMS = Domain(
    name="programs",
    generator=task.GENERATOR,
    is_correct=task.is_correct,
    line=line,
    closing=closing,
    max_new_tokens=640,
    sample=task.make_problem(random.Random(18)),
    about="tells what a small Python program prints, with a chain of thought",
    data="""\
Problems come from a seeded generator (`evals/tasks/tiny/programs_task.py`): programs with two whole numbers below 100
and one list of at most three, 2 or 3 statements (calculations, list operations, `if` and `else`, one `for` over the
list) and a `print`. A program belongs to one split by a hash of its text with the variables renamed, so a held-out
program never occurs in training under other names; `check_disjoint` looks for itself. There is no other data.""",
    limits="""\
These statements only, in programs of this size: no functions, no strings, no negative numbers, nothing above 99.""",
)


def solution(problem: Problem) -> str:
    """A whole right answer, as the SLM writes it."""
    return PROGRAMS.solution(problem)
