"""Which answers count as right."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.checking.checker import OwnCheck
from evals.checking.checkers import checker_of
from evals.checking.math import MathCheck, judge
from evals.checking.text import TextCheck
from evals.tasks.data import Problem
from evals.tasks.task import of_file
from rstitch.errors import RstitchError

pytestmark = pytest.mark.timeout(120)


def problem(reference: str = "", **row: str) -> Problem:
    return Problem(0, "0", "", reference, row)


@pytest.mark.parametrize(
    ("reference", "text", "correct"),
    [
        ("70000", "She makes $70,000.\n#### 70,000", True),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "so \\boxed{(3, \\pi/2)}", True),
        ("27.0", "The answer is \\boxed{27}.", True),
        ("1,018", "\\boxed{1018}", True),
        ("025", "\\boxed{25}", True),
        ("\\frac{14}{3}", "\\boxed{4.67}", False),
        ("p - q", "\\boxed{-q+p}", True),
        ("\\text{Evelyn}", "\\boxed{\\text{Evelyn}}", True),
        ("5", "I do not know.", False),
        ("5", "", False),
    ],
)
def test_mathematics_is_compared_by_meaning(reference: str, text: str, correct: bool) -> None:
    assert judge(reference, text)["correct"] is correct


def test_a_reference_that_cannot_be_read_says_so() -> None:
    assert "cannot be read" in judge("", "5")["detail"]


async def test_an_expression_without_end_costs_its_own_answer_only() -> None:
    async with MathCheck(patience_s=10) as checker:
        assert (await checker.check(problem("4"), "\\boxed{4}")).correct
        checker._patience_s = 1
        endless = await checker.check(problem("4"), "\\boxed{7^{7^{7^{7^{7^{7}}}}} \\cdot (9^{9^{9^{9}}})!}")
        checker._patience_s = 30
        assert not endless.correct
        verdict = await checker.check(problem("5"), "It is \\boxed{4}.")
        assert (verdict.correct, verdict.answer) == (False, "4")


async def test_a_generator_checks_its_own() -> None:
    async with OwnCheck(lambda text, source: text == source) as checker:
        asked = Problem(0, "0", "", "", {}, "yes")
        assert (await checker.check(asked, "yes")).correct
        assert not (await checker.check(asked, "no")).correct


@pytest.mark.parametrize(
    ("reference", "text", "boxed", "exact"),
    [
        ("Paris", "It is \\boxed{ paris }.", True, True),
        ("Paris", "Long thought.\n\nThe answer is **Paris**.\n", False, True),
        ("Paris", "Paris\nor London", False, False),
        ("x + 1", "\\boxed{$x  + 1$}", True, True),
        ("Paris", "\\boxed{Rome}\nParis", False, False),
        ("so", "so", False, True),
        ("5", "", False, False),
    ],
)
async def test_texts_are_compared_as_they_are_written(reference: str, text: str, boxed: bool, exact: bool) -> None:
    assert (await TextCheck(must_box=True).check(problem(reference), text)).correct is boxed
    assert (await TextCheck(must_box=False).check(problem(reference), text)).correct is exact


async def test_a_function_of_the_users_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_checks.py").write_text(
        "import json\n"
        "def ends(text, row): return text.endswith(row['answer']) and row['kind'] == 'x'\n"
        "def fails(text, row): return json.loads(text)\n"
        "constant = 4\n"
    )
    monkeypatch.chdir(tmp_path)
    task = of_file(Path("questions.jsonl"), "python:my_checks.ends")
    asked = Problem(3, "p-3", "", "", {"answer": "42", "kind": "x"})
    assert (await checker_of(task).check(asked, "so 42")).correct
    assert not (await checker_of(task).check(asked, "so 41")).correct
    failing = checker_of(of_file(Path("questions.jsonl"), "python:my_checks.fails"))
    with pytest.raises(RstitchError, match=r"--check: my_checks.fails failed on problem p-3: JSONDecodeError"):
        await failing.check(asked, "{")
    with pytest.raises(RstitchError, match=r"my_checks.fails said 4 of problem p-3\. Make it return True or False"):
        await failing.check(asked, "4")
    for path, message in (("my_checks.constant", "no function"), ("my_checks.none", "no attribute")):
        with pytest.raises(RstitchError, match=message):
            checker_of(of_file(Path("questions.jsonl"), f"python:{path}"))
