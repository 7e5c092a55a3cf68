"""Calibration: its intervals hold what they say, its goals find what there is, its refusals name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from evals.calibrate.calibration import calibrate
from evals.calibrate.goals import Goal, LatencyGoal, ShareGoal
from evals.calibrate.knobs import knob
from evals.calibrate.loss import LossGoal
from evals.calibrate.outcomes import Sample
from evals.calibrate.questions import load_questions
from evals.calibrate.repeat import Pool, Wanted, repeat
from evals.figures.intervals import predicted_loss, predicted_ratio, questions_for, smallest_provable_loss, upper_loss
from rstitch.client.types import Confidence, Learned, Random, Signal, Threshold
from rstitch.errors import RstitchError

ENTROPY = knob("threshold", "entropy", 0)


def answered(value: float | None, n: int, seed: int) -> Sample:
    """A made-up pair: the LLM's share falls with tau, an answer is right less often the less of it there is."""
    rng = np.random.default_rng([seed, 0])
    tokens = rng.integers(30, 90, n).astype(float)
    if value is None:
        return Sample(tokens, tokens, 3 * tokens, rng.random(n) < 0.98)
    share = 0.4 * np.clip(-np.log10(value), 0.02, 6) / 6 * rng.lognormal(0, 0.6, n)
    llm_tokens = np.minimum(tokens, np.round(share * tokens))
    latency = tokens + 2 * llm_tokens
    right = rng.random(n) < 0.98 - 0.15 * np.clip(np.log10(value) + 3, 0, 3) / 3
    return Sample(llm_tokens, tokens, latency, right)


async def calibrated(goal: Goal, n: int, seed: int) -> object:
    async def answers(value: float | None, fresh: bool) -> Sample:
        return answered(value, n, 2 * seed + fresh)

    return await calibrate(goal, ENTROPY, answers, n, has_answers=True)


async def test_a_share_is_found_and_its_check_lands_as_often_as_stated() -> None:
    landed = 0
    for seed in range(60):
        made = await calibrated(ShareGoal(0.1), 100, seed)
        landed += made.landed
        assert made.found.stated.value == pytest.approx(0.1, abs=0.02)
    assert landed >= binom.ppf(0.001, 60, 0.95)  # 95%, less what chance takes


async def test_a_speed_up_is_had_with_the_largest_share_that_gives_it() -> None:
    made = await calibrated(LatencyGoal(2.0), 200, 1)
    assert made.found.stated.value >= 2.0
    assert made.found.stated.low < made.found.stated.value < made.found.stated.high
    index = ENTROPY.values.index(made.found.value)
    before = answered(ENTROPY.values[index - 1], 200, 2)
    assert LatencyGoal(2.0).figure(before, answered(None, 200, 2)) < 2.0


async def test_a_loss_is_bounded_by_the_last_value_that_is_shown_to_be_safe() -> None:
    made = await calibrated(LossGoal(0.06), 300, 3)
    assert made.found.bound <= 0.06
    assert made.found.value in ENTROPY.coarse
    assert "shown at 95%" in " ".join(made.lines())
    assert set(made.beside) == {"LLM share", "speed-up"}


async def test_what_cannot_be_reached_is_refused_with_what_can() -> None:
    with pytest.raises(RstitchError, match=r"--llm-share: 90.0% is not to be had.*goes from .*Ask for") as caught:
        await calibrated(ShareGoal(0.9), 50, 0)
    assert caught.value.reason == "UNREACHABLE"
    with pytest.raises(RstitchError, match=r"--latency: 50.00x is not to be had"):
        await calibrated(LatencyGoal(50), 50, 0)
    with pytest.raises(RstitchError, match=r"with 50 calibration questions no loss below 5.1%.*at least 536 questions"):
        await calibrated(LossGoal(0.01), 50, 0)


async def test_repeats_draw_disjoint_halves_and_count_what_landed() -> None:
    samples = {value: answered(value, 200, 5) for value in (None, *ENTROPY.coarse)}
    row = await repeat(Pool(ENTROPY, samples), Wanted.always(ShareGoal(0.12)), 40, 100, 100, seed=0)
    assert (row["repeats"], row["reached"]) == (40, 40)
    assert row["landed"] >= binom.ppf(0.001, 40, 0.95)


def test_bounds_of_a_loss_are_those_of_the_score_test() -> None:
    assert upper_loss(0, 0, 150) == pytest.approx(smallest_provable_loss(150))
    assert upper_loss(0, 0, questions_for(0.01)) <= 0.01 < upper_loss(0, 0, questions_for(0.01) - 2)
    assert upper_loss(10, 0, 100) > upper_loss(10, 5, 100) > upper_loss(5, 5, 100) > 0 > upper_loss(0, 20, 100)
    rng = np.random.default_rng(0)
    harmed, helped, _ = rng.multinomial(200, (0.06, 0.02, 0.92), size=2000).T
    covered = np.mean([upper_loss(a, b, 200) >= 0.04 for a, b in zip(harmed, helped, strict=True)])
    assert 0.93 <= covered <= 0.985


def test_predictions_hold_their_share_of_fresh_samples() -> None:
    rng = np.random.default_rng(1)

    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = rng.integers(30, 90, n).astype(float)
        return np.round(tokens * rng.beta(0.5, 6, n)), tokens

    hits = [predicted_ratio(*sample(80), 60).holds((lambda s: s[0].sum() / s[1].sum())(sample(60))) for _ in range(200)]
    assert 0.90 <= np.mean(hits) <= 0.985
    losses = []
    for _ in range(300):
        (a, b, _), (c, d, _) = rng.multinomial(150, (0.03, 0.02, 0.95), size=2)
        losses.append(predicted_loss(a, b, 150, 150).holds((c - d) / 150))
    assert np.mean(losses) >= 0.93


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        (("threshold", "margin", 0), Threshold(0.9, signal=Signal.MARGIN)),
        (("threshold", "entropy_window", 4), Threshold(0.9, signal=Signal.ENTROPY_WINDOW, window=4)),
        (("confidence", "entropy", 0), Confidence(0.1)),
        (("random", "entropy", 0), Random(0.98, seed=0)),
        (("learned:tiny", "entropy", 0), Learned("tiny", price=100.0)),
        (("learned:tiny,tau=0.03", "entropy", 0), Learned("tiny", 0.03, price=100.0)),
    ],
)
def test_knobs_make_policies(arguments: tuple[str, str, int], policy: object) -> None:
    assert knob(*arguments).policy(knob(*arguments).values[-1]) == policy


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("llm_only", "entropy", 0), "--policy"),
        (("learned", "entropy", 0), "--policy"),
        (("random", "margin", 0), "--signal"),
        (("threshold", "margin", 4), "--window"),
    ],
)
def test_what_cannot_be_turned_is_refused(arguments: tuple[str, str, int], flag: str) -> None:
    with pytest.raises(RstitchError, match=flag):
        knob(*arguments)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(RstitchError, match="--llm-share"):
        ShareGoal(share)
    with pytest.raises(RstitchError, match="--max-loss"):
        LossGoal(share)


def test_a_speed_up_is_over_1() -> None:
    with pytest.raises(RstitchError, match="--latency"):
        LatencyGoal(0.5)


def test_questions_of_a_file_and_of_a_task(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": n}) + "\n\n" for n in range(9)))
    questions = load_questions(str(path), 0, 0, needs_answers=False)
    assert [problem.prompt for problem in questions.problems] == [f"{n}?" for n in range(9)]
    one, other = questions.split(3)
    assert (len(one), len(other)) == (5, 4)
    assert {p.prompt for p in one} | {p.prompt for p in other} == {f"{n}?" for n in range(9)}
    assert questions.split(3) == (one, other) != questions.split(4)
    assert len(load_questions("tiny:calibration", 7, 0, needs_answers=True).problems) == 7


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"question": "a", "answer": 1}\n{"question"\n', "line 2: it is no JSON"),
        ('{"question": "a", "answer": "1"}\n{"prompt": "b"}\n', "line 2: there is no question"),
        ('["a"]\n', "line 1: list is no object"),
        ('{"question": "a", "answer": "1"}\n\n{"question": "b"}\n', "line 3: there is no answer"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(text)
    with pytest.raises(RstitchError, match=match) as caught:
        load_questions(str(path), 0, 0, needs_answers=True)
    assert caught.value.field == "--data"


@pytest.mark.parametrize("data", ["nowhere.jsonl", "tiny:test", "tiny", "gsm8k:test"])
def test_what_is_no_calibration_data_is_refused(data: str) -> None:
    with pytest.raises(RstitchError, match="--data"):
        load_questions(data, 0, 0, needs_answers=True)


def test_fewer_than_no_questions_are_refused() -> None:
    with pytest.raises(RstitchError, match="--n"):
        load_questions("tiny:calibration", -4, 0, needs_answers=False)


def test_too_few_questions_to_split(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "a"}\n' * 3)
    with pytest.raises(RstitchError, match="at least 4"):
        load_questions(str(path), 0, 0, needs_answers=False).split(0)
