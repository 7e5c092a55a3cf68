"""The first domain: arithmetic word problems, each calculation one line."""

from __future__ import annotations

from evals.tasks.tiny import arithmetic as task
from evals.tasks.tiny.arithmetic import Problem, Step
from evals.tasks.tiny.domain import Domain, Style

_VERBS = {"+": "Add", "-": "Subtract", "*": "Multiply by", "/": "Divide by"}
_INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}


def line(step: Step, style: Style) -> str:
    """One calculation, written out. The two styles differ from the first token on: a digit or a word."""
    sum_ = f"{step.left}{step.op}{step.right}={step.result}"
    if style == "short":
        return f"{sum_}.\n"
    check = f"{step.result}{_INVERSE[step.op]}{step.right}={step.left}"
    begin = f"Count {step.right} {step.count_of}" if step.count_of else f"{_VERBS[step.op]} {step.right}"
    return f"{begin}: {sum_}. Check: {check}.\n"


def closing(problem: Problem) -> str:
    """The answer's sentence."""
    return f"</think>\n{problem.person} now has \\boxed{{{problem.answer}}} {problem.items}."


WORDS = Domain(
    name="words",
    generator=task.GENERATOR,
    is_correct=task.is_correct,
    line=line,
    closing=closing,
    max_new_tokens=320,
    sample=Problem(
        "Mia has 47 shells. She finds 28 more. Then she triples the number of shells. "
        "How many shells does Mia have now?",
        (Step(47, "+", 28, 75), Step(75, "*", 3, 225)),
        225,
        "Mia",
        "shells",
    ),
    about="solves arithmetic word problems with a chain of thought",
    data="""\
Problems come from a seeded generator (`evals/tasks/tiny/arithmetic.py`): 2 to 6 calculations, whole numbers below
1,000, one person, one kind of thing. A problem belongs to one split by a hash of its calculations (not of its
wording), so held-out calculations never occur in training in any words; `check_disjoint` looks for itself. There is no
other data.""",
    limits="""\
Up to six calculations; no decimals, no negative numbers, nothing above 999. Errors are errors of a very small network,
not of reasoning. A "Check" writes the sum backwards; chains in training are right, so a check never finds a mistake and
mends none.""",
)


def solution(problem: Problem) -> str:
    """A whole right answer, as the SLM writes it."""
    return WORDS.solution(problem)
