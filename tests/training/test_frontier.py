"""Baselines, the dev frontier and what is promised of it, on answers of which everything is known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from evals.figures.intervals import upper_loss
from evals.latency import Run
from evals.tasks.data import Problem
from evals.tasks.task import Task, of_file
from rstitch.client.policies import Learned, LlmOnly, SlmOnly, Threshold
from rstitch.errors import RstitchError
from rstitch.service.head import Head
from tests.support.heads import random_head
from training.head import baselines, frontier
from training.head.baselines import Baselines, baselines_of, check_checker
from training.head.card import Training, write_head
from training.head.effort import Effort
from training.head.frontier import Point
from training.head.promise import check_promise, choose, questions_needed
from training.head.questions import load_questions
from training.head.recipe import FAST, Recipe
from training.head.rollouts import Asked, Job, Rollout

TASK = of_file(Path("questions.jsonl"), "exact", max_new_tokens=100)


def answered(right: Sequence[bool], latency_ms: float = 10.0, num_tokens: int = 20, text: str = "42") -> list[Rollout]:
    return [
        Rollout(problem_of(index), text, each, latency_ms + index % 3, num_tokens, 2, (Run("slm", num_tokens),))
        for index, each in enumerate(right)
    ]


def problem_of(index: int) -> Problem:
    return Problem(index, f"q{index}", f"question {index}", "42", {"question": f"question {index}", "answer": "42"})


@dataclass
class Known:
    """`Rollouts` by a rule: of 100 questions the LLM gets 90 right, the SLM 50, both in 10 ms and 2 ms a token."""

    num_wrong: Callable[[Asked], int]
    latency_ms: Callable[[Asked], float]

    def use(self, head: Head) -> str:
        raise AssertionError("no head is made here")

    def run(self, jobs: Sequence[Job], policy: Asked, on_done: Callable[[Rollout], None]) -> list[Rollout]:
        wrong, latency_ms = self.num_wrong(policy), self.latency_ms(policy)
        made = answered([index >= wrong for index in range(len(jobs))], latency_ms)
        for each in made:
            on_done(each)
        return made


def wrong(policy: Asked) -> int:
    """The dearer the LLM, the more is wrong."""
    match policy:
        case LlmOnly():
            return 10
        case SlmOnly():
            return 50
        case Learned():
            return 10 + int(4 * (policy.price or 1))
        case Threshold(tau):
            return 10 + int(100 * tau)


def latency(policy: Asked) -> float:
    match policy:
        case LlmOnly():
            return 100
        case SlmOnly():
            return 20
        case Learned():
            return 60 / (1 + (policy.price or 1))
        case Threshold(tau):
            return 60 / (1 + 10 * tau)


def measured(num: int = 400) -> list[Point]:
    asked = frontier.systems("mine.training", 0.01, (0.02, 0.1), (0.25, 1.0, 4.0))
    problems = [problem_of(index) for index in range(num)]
    told: list[Rollout] = []
    points = frontier.measure(Known(wrong, latency), asked, problems, told.append, "mine")
    assert len(told) == num * len(asked)
    return points


def test_a_frontier_compares_with_the_llm_on_the_same_questions() -> None:
    points = {point.figures.name: point for point in measured()}
    # fmt: off
    assert [*points] == [
        "llm_only", "slm_only", "threshold:tau=0.02", "threshold:tau=0.1", "learned:name=mine,tau=0.01,price=0.25",
        "learned:name=mine,tau=0.01,price=1", "learned:name=mine,tau=0.01,price=4",
    ]
    # fmt: on
    alone, dear = points["llm_only"], points["learned:name=mine,tau=0.01,price=4"]
    assert (alone.difference, alone.difference_low, alone.loss_bound(), alone.speed_up) == (0, 0, 0, 1)
    assert (dear.harmed, dear.helped, dear.difference) == (16, 0, pytest.approx(-16 / 400))
    assert dear.difference_low < -0.04 < dear.difference_high < 0
    assert dear.loss_bound() == upper_loss(16, 0, 400)
    assert dear.loss_bound(4) > dear.loss_bound()
    assert dear.speed_up == pytest.approx(101 / 13, rel=0.01)
    assert Point.of(asdict(dear)) == dear
    assert dear.row()["system"] == "learned:name=mine,tau=0.01,price=4"


def test_the_plot_of_a_frontier_is_drawn(tmp_path: Path) -> None:
    frontier.plot(measured(40), "mine, dev, n = 40", tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


def test_of_prices_that_keep_a_loss_the_fastest_is_chosen() -> None:
    points = measured()
    choice = choose(points, loss=0.03)
    assert (choice.keeps, choice.point.value) == (True, 1.0)
    assert "the loss against the LLM alone is below 3.0% (shown at 95%: at most 2." in choice.statement
    assert choose(points, loss=0.02).point.value == 0.25
    # Of many heads that were looked at, one may keep it by chance.
    assert choose(points, loss=0.0225, num_heads=1).point.value == 1.0
    assert choose(points, loss=0.0225, num_heads=8).point.value == 0.25


def test_that_no_price_keeps_a_loss_is_said() -> None:
    choice = choose(measured(), loss=0.005)
    assert not choice.keeps
    assert choice.point.value == 0.25
    assert (
        "No price is shown to keep the loss below 0.5%: of 0.25, 1, 4 the safest is tested first, and at 0.25 it may"
        in (choice.statement)
    )
    assert "less than 0.7% cannot be shown" in choice.statement


def test_of_prices_that_are_fast_enough_the_most_accurate_is_chosen() -> None:
    points = measured()
    choice = choose(points, speed_up=2.0)
    assert (choice.keeps, choice.point.value) == (True, 0.25)
    assert choose(points, speed_up=3.0).point.value == 1.0
    none = choose(points, speed_up=30.0)
    assert (none.keeps, none.point.value) == (False, 4.0)
    assert (
        "No price is shown to make answers 30x as fast as the LLM alone's: of 4, 1, 0.25 the highest" in none.statement
    )
    assert choose(points, price_ms=1e-4).point.value == 0.25
    assert choose(points, price_ms=1e-2).point.value == 4.0


@pytest.mark.parametrize(("loss", "helped"), [(0.01, 0.0), (0.01, 0.02), (0.05, 0.04), (0.02, 0.1)])
def test_the_questions_that_a_promise_needs_are_enough_and_no_more(loss: float, helped: float) -> None:
    needed = questions_needed(loss, helped)
    changed = round(helped * needed)
    assert upper_loss(changed, changed, needed) <= loss
    changed = round(helped * 0.9 * needed)
    assert upper_loss(changed, changed, int(0.9 * needed)) > loss
    assert check_promise(loss, needed, helped) == ""


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(num_steps=0), Recipe(num_steps=25), FAST])
def test_what_is_let_pass_can_be_shown_after_as_many_looks(recipe: Recipe) -> None:
    looks = recipe.num_looks
    assert looks == {0: 1, 2: 2, 20: 3, 25: 4}[recipe.num_steps]
    num_dev = questions_needed(0.01, 0.0, looks)
    assert check_promise(0.01, num_dev, 0.0, looks) == ""
    harmless = points_of(harmed={1.0: 0}, num=num_dev)
    assert choose(harmless, loss=0.01, num_heads=looks).keeps
    with pytest.raises(RstitchError, match="--target-loss"):
        check_promise(0.01, num_dev - 1, 0.0, looks)


def points_of(harmed: dict[float, int], num: int = 400, latency_ms: float = 5.0) -> list[Point]:
    """A head that harms so many questions at each price, in steps of a few ms."""
    alone = answered([True] * num)
    return [
        frontier.point_of(
            Learned("mine", 0.01, price=price), answered([index >= wrong for index in range(num)], latency_ms), alone
        )
        for price, wrong in harmed.items()
    ]


def test_a_failed_test_ends_the_testing_whatever_comes_behind_it() -> None:
    choice = choose(points_of({0.25: 8, 0.5: 2, 1.0: 2}), loss=0.03)
    assert not choice.keeps
    assert not choice.is_promise
    assert choice.point.value == 0.25
    assert "at 0.25 it may be 3." in choice.statement
    assert "the testing ended there" in choice.statement
    assert choose(points_of({0.25: 2, 0.5: 8, 1.0: 2}), loss=0.03).point.value == 0.25


def test_a_speed_up_is_shown_for_each_head_that_was_looked_at() -> None:
    points = points_of({1.0: 0}, num=40)
    bounds = [points[0].speed_up_bound(num_heads) for num_heads in (1, 2, 8)]
    assert points[0].speed_up > bounds[0] > bounds[1] > bounds[2] > 1
    assert bounds[1] == pytest.approx(points[0].speed_up_low)
    asked = (bounds[0] + bounds[2]) / 2
    assert choose(points, speed_up=asked).keeps
    assert not choose(points, speed_up=asked, num_heads=8).keeps


def test_too_few_questions_for_a_promise_are_refused_with_their_number() -> None:
    with pytest.raises(RstitchError, match=r"--target-loss: 100 dev questions can show no loss below 2.6%.*takes 268"):
        check_promise(0.01, 100, 0.0)
    with pytest.raises(RstitchError, match=r"300 dev questions .* below 1.5% \(95% for each of 3 looks.*takes 449"):
        check_promise(0.01, 300, 0.0, 3)
    said = check_promise(0.01, 100, 0.0, is_trial=True)
    assert "nothing will be promised: 100 dev questions can show no loss below 2.6%" in said
    assert "a higher --num-dev" in said
    with pytest.raises(RstitchError, match="no number of questions shows"):
        check_promise(1.5, 100, 0.0, is_trial=True)
    said = check_promise(0.01, 300, 0.03)
    assert "300 dev questions may be too few to show a loss below 1.0%" in said
    assert f"Give {questions_needed(0.01, 0.03)} dev questions" in said


def test_models_alone_are_compared() -> None:
    problems = [problem_of(index) for index in range(100)]
    made = baselines.measure(Known(wrong, latency), TASK, problems, lambda rollout: None)
    assert (made.llm_only.accuracy, made.slm_only.accuracy, made.harmed, made.helped) == (0.9, 0.5, 0.4, 0)
    assert made.notes == ()
    assert Baselines.of(asdict(made)) == made


def test_what_makes_training_pointless_is_said_or_refused() -> None:
    good, bad = answered([True] * 20), answered([False] * 20, num_tokens=100, text="no idea")
    notes = baselines_of(TASK, good, answered([True] * 20, latency_ms=30)).notes
    assert [note.split(":")[0] for note in notes] == ["nothing to stitch", "nothing to save"]
    with pytest.raises(RstitchError, match=r"--llm: the LLM alone is right in none of 20 .* the SLM alone in 20"):
        baselines_of(TASK, bad, good)
    with pytest.raises(
        RstitchError, match=r"--check: no answer .* 20 of the LLM's were cut off at 100 .*'no idea'.*mend"
    ):
        baselines_of(TASK, bad, bad)


def test_a_checker_should_call_the_datas_own_answers_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_checker(TASK, [problem_of(0)])
    solved = Problem(1, "q1", "?", "42", {"question": "?", "solution": "so \\boxed{43}"})
    with pytest.raises(RstitchError, match=r"--check: it calls the data's own answer to problem q1 wrong: .*43"):
        check_checker(TASK, [problem_of(0), solved])
    checks = "def fails(text, row): return row['none']\ndef no(text, row): return False\n"
    (tmp_path / "their_checks.py").write_text(checks)
    monkeypatch.chdir(tmp_path)

    def task(name: str) -> Task:
        return of_file(Path("questions.jsonl"), f"python:their_checks.{name}")

    check_checker(task("no"), [problem_of(0)])  # nothing is known of what it wants to read
    with pytest.raises(RstitchError, match=r"their_checks.fails failed on problem q0: KeyError"):
        check_checker(task("fails"), [problem_of(0)])


def test_a_card_says_what_is_promised_and_how_to_test_it(tmp_path: Path) -> None:
    lines = ({"question": f"question {index}", "answer": "42"} for index in range(300))
    (tmp_path / "q.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    questions = load_questions(data=tmp_path / "q.jsonl", check="exact", prompt="{question} Be short.")
    curves = [
        {"step": step, "reward": 0.8, "accuracy": 0.9, "latency_ms": 50.0, "llm_share": 0.1, "price": 1e-3}
        for step in (1, 2)
    ]
    curves[-1] |= {"slack_low": -0.01, "slack": 0.012, "slack_high": 0.034}
    models = {"slm": "small (cpu float32)", "llm": "large (cpu float32)"}
    effort = Effort(600, 1200, 300)
    points = measured()
    looks = dict.fromkeys((0, 2), points[-1].figures)
    training = Training(
        FAST,
        models,
        questions,
        "a loss of at most 3.0%",
        curves,
        looks,
        2,
        effort,
        name="mine",
        test_command="rstitch eval run --check x",
        latency_of="this beside that",
        calibration=[{"n": 12, "low": 1.24e-7, "high": 3.5e-4, "said": 2.71e-5, "wrong": 0.0}],
    )
    folder = tmp_path / "mine"
    write_head(folder, random_head(8), training, points, choose(points, loss=0.03))
    said = (folder / "README.md").read_text()
    assert Head.from_bytes((folder / "head.safetensors").read_bytes()).version == random_head(8).version
    assert {"training.jsonl", "training.png", "frontier.png", "dev.json"} <= {path.name for path in folder.iterdir()}
    assert "Wanted: a loss of at most 3.0%. At price 1 the loss against the LLM alone is below 3.0%" in said
    assert "10 minutes; of them 5 waiting for 1,200 answers (4.0 a second)" in said
    assert "as the latency model gives them.\nThat model was measured elsewhere, on this beside that:" in said
    assert "model that was measured elsewhere (above) with the waiting model" in said
    assert "by the exploring answers of the last steps: +1.2% [-1.0%, +3.4%] (accuracy above" in said
    assert "The head is that of step 2, chosen on these very questions among" in said
    assert "    rstitch eval run --check x\n" in said
    assert re.search(r"\| 1.2e-05 to 0.035 +\| +12 \| +0.00271 \| +0 \|", said)
    assert len([line for line in said.splitlines() if line.startswith("| ")]) == 1 + len(points) + 1 + len(looks) + 2
    assert max(map(len, (line for line in said.splitlines() if not line.startswith(("|", " ", "- `"))))) < 300
