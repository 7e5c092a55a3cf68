"""The latency model: its formulas, the calls of a trajectory, the fit, the file."""

from __future__ import annotations

import itertools
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.latency import Decode, LatencyModel, ModelLatency, Prefill, Run, Service, Serving, plots, runs_of
from evals.latency.answers import Measured
from evals.latency.check import check
from evals.latency.fit import fit_model, fit_serving, relative_nnls
from evals.latency.profile import TimedCall
from rstitch.client.types import Segment, Source, SwitchReason, Trajectory, TrajectoryState

SLM = ModelLatency(Prefill(1e-5, 2e-5, 0.01, 1.0), Decode(1e-4, 0.5))
LLM = ModelLatency(Prefill(5e-5, 9e-5, 0.08, 4.0), Decode(9e-4, 3.0))
MODEL = LatencyModel(SLM, LLM, Serving(10.0, 2.0, 0.1))


def algorithm_1(num_prompt_tokens: int, runs: list[Run]) -> float:
    """Call by call, with the caches as lists of what was put in."""
    length, caches, total = num_prompt_tokens, {"slm": 0, "llm": 0}, 0.0
    for run in runs:
        for kept in [True] * run.num_tokens + [False] * run.discarded:
            missing = length - caches[run.model]
            model = SLM if run.model == "slm" else LLM
            prefill, decode = model.prefill_coefficients, model.decode_coefficients
            if missing == 1:
                total += decode.c * caches[run.model] + decode.d
            else:
                total += prefill.a * missing * caches[run.model] + prefill.b * missing**2 + prefill.c * missing
                total += prefill.d
            caches[run.model] = length
            length += kept
    return total


def random_runs(rng: random.Random) -> list[Run]:
    runs, model = [], "slm"
    for _ in range(rng.randint(1, 12)):
        is_slm = model == "slm"
        runs.append(Run("slm" if is_slm else "llm", rng.randint(0 if is_slm else 1, 60), discarded=is_slm))
        model = "llm" if is_slm else "slm"
    return runs


def test_l_is_the_sum_over_the_calls_of_algorithm_1() -> None:
    rng = random.Random(0)
    for _ in range(200):
        prompt, runs = rng.randint(1, 300), random_runs(rng)
        assert MODEL.trajectory_ms(prompt, runs) == pytest.approx(algorithm_1(prompt, runs))
        bare = Service(catch_up_tokens=0, overheads=False)
        assert MODEL.trajectory_ms(prompt, runs, bare) == pytest.approx(algorithm_1(prompt, runs))


def test_catching_up_beside_takes_prefills_off_the_critical_path() -> None:
    runs = [Run("slm", 200, discarded=True), Run("llm", 1), Run("slm", 200)]
    at_the_switch = MODEL.trajectory_ms(50, runs, Service(catch_up_tokens=0, overheads=False))
    beside = MODEL.trajectory_ms(50, runs, Service(catch_up_tokens=32, overheads=False))
    assert beside < at_the_switch
    alone = [Run("llm", 5)]
    assert MODEL.trajectory_ms(50, alone, Service(32, False)) == pytest.approx(algorithm_1(50, alone))


def test_a_catch_up_that_is_not_over_is_waited_for() -> None:
    """The first proposal is discarded at once: the LLM has the whole prompt before it, beside or not."""
    runs = [Run("slm", 0, discarded=True), Run("llm", 1)]
    beside = MODEL.trajectory_ms(100, runs, Service(catch_up_tokens=32, overheads=False))
    assert beside >= float(LLM.prefill(100, 0)) + float(LLM.decode(99))


def test_overheads_are_counted_by_answer_hand_over_and_step() -> None:
    runs = [Run("slm", 3, discarded=True), Run("llm", 2), Run("slm", 0)]
    without = MODEL.trajectory_ms(20, runs, Service(0, overheads=False))
    assert MODEL.trajectory_ms(20, runs, Service(0)) - without == pytest.approx(10.0 + 2 * 2.0 + 6 * 0.1)


def test_formulas_broadcast() -> None:
    assert SLM.prefill([[1], [2]], [10, 20, 30]).shape == (2, 3)
    assert SLM.decode(np.arange(5)).tolist() == pytest.approx([0.5 + 1e-4 * n for n in range(5)])
    assert SLM.steps(7, 100) == pytest.approx(float(SLM.decode(np.arange(100, 107)).sum()))


def segment(source: Source, position: int, num: int, reason: str = "unspecified") -> Segment:
    return Segment(source, position, (1,) * num, (), "", SwitchReason(reason), 0.0)


def trajectory(*segments: Segment) -> Trajectory:
    now = datetime.now(UTC)
    length = sum(len(segment.tokens) for segment in segments)
    return Trajectory("s", TrajectoryState.FINISHED, length, 1, segments, None, None, now, now)


def test_runs_of_a_trajectory_count_discarded_proposals() -> None:
    told = trajectory(
        segment(Source.PROMPT, 0, 10),
        segment(Source.SLM, 10, 0),
        segment(Source.LLM, 10, 2, "entropy_above"),
        segment(Source.SLM, 12, 5, "entropy_below"),
        segment(Source.LLM, 17, 1, "entropy_above"),
    )
    assert runs_of(told) == (10, [Run("slm", 0, True), Run("llm", 2), Run("slm", 5, True), Run("llm", 1)])


def test_a_conversation_is_refused() -> None:
    turns = (segment(Source.PROMPT, 0, 4), segment(Source.SLM, 4, 2), segment(Source.PROMPT, 6, 3))
    with pytest.raises(ValueError, match="more than one answer"):
        runs_of(trajectory(*turns))


def test_drafts_are_refused() -> None:
    drafted = (segment(Source.PROMPT, 0, 4), segment(Source.SLM, 4, 2), segment(Source.LLM, 6, 1, "verification"))
    with pytest.raises(ValueError, match="drafts"):
        runs_of(trajectory(*drafted))


def timed(latency: ModelLatency, noise: float, repeats: int = 5) -> list[TimedCall]:
    rng = random.Random(1)
    calls = []
    for held in (0, 64, 256, 1024):
        for _ in range(repeats):
            for num in (2, 16, 128):
                ms = float(latency.prefill(num, held)) * rng.lognormvariate(0, noise)
                calls.append(TimedCall(num, held, 1, ms, ms + 1))
            ms = latency.steps(8, held) * rng.lognormvariate(0, noise)
            calls.append(TimedCall(1, held, 8, ms, ms + 1))
    return calls


def test_the_fit_finds_the_coefficients_of_exact_calls() -> None:
    found = fit_model(timed(LLM, 0.0), {"model": "m"})
    assert found.prefill([2, 50, 300], [7, 90, 700]) == pytest.approx(LLM.prefill([2, 50, 300], [7, 90, 700]))
    assert found.decode(500) == pytest.approx(LLM.decode(500))
    assert found.fits["prefill"].r2 == pytest.approx(1)
    assert found.fits["decode"].median_error == pytest.approx(0, abs=1e-9)


def test_the_numbers_of_a_plots_axes_do_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.plot_fit(fitted(), {"slm": timed(SLM, 0.1), "llm": timed(LLM, 0.1)}, tmp_path / "fit.png")
    (figure,) = figures
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    num_labels = 0
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            labels = [label for label in axis.get_ticklabels(which="both") if label.get_text()]
            boxes = [label.get_window_extent(renderer) for label in labels]
            num_labels += len(boxes)
            assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2)), panel.get_title()
    assert num_labels > 20


def fitted() -> LatencyModel:
    return LatencyModel(fit_model(timed(SLM, 0.1), {"model": "s"}), fit_model(timed(LLM, 0.1), {"model": "l"}))


def test_noise_lowers_what_the_fit_says_of_itself_and_leaves_coefficients_positive() -> None:
    found = fit_model(timed(LLM, 0.3, 9), {})
    assert found.fits["prefill"].r2 < 1
    assert 0.1 < found.fits["prefill"].median_error < 0.4
    assert min(found.prefill_coefficients.a, found.prefill_coefficients.b, found.decode_coefficients.c) >= 0
    assert float(found.prefill(128, 64)) == pytest.approx(float(LLM.prefill(128, 64)), rel=0.3)


def test_no_coefficient_is_negative() -> None:
    columns, falling = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]), np.array([3.0, 2.0, 1.0])
    assert relative_nnls(columns, falling, np.ones(3)) == pytest.approx([0.0, 2.0])


def test_calls_of_one_kind_alone_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="--inputs"):
        fit_model([call for call in timed(SLM, 0.0) if call.is_decode], {})


def test_what_serving_adds_is_found_in_spite_of_an_answer_that_was_held_up() -> None:
    rng = np.random.default_rng(0)
    calls, steps = rng.integers(1, 20, 40).astype(float), rng.integers(20, 200, 40).astype(float)
    left = 8.0 + 1.5 * calls + 0.2 * steps
    total = left + 0.8 * steps
    left[3] += 500
    total[3] += 500
    two = steps * (np.arange(40) % 2)
    left, total = left + 0.3 * two, total + 0.3 * two
    found = fit_serving(left, total, np.column_stack([calls, steps, two]))
    assert (found.answer_ms, found.call_ms, found.token_ms) == pytest.approx((8.0, 1.5, 0.2), rel=0.2)
    assert found.beside_ms == pytest.approx(0.3, rel=0.2)


def test_the_file_holds_all_of_it(tmp_path: Path) -> None:
    fitted = LatencyModel(
        fit_model(timed(SLM, 0.1), {"device": "cpu"}),
        fit_model(timed(LLM, 0.1), {}),
        fit_serving(np.array([2.0, 3.0]), np.array([10.0, 20.0]), np.ones((2, 3))),
        {"commit": "abc"},
    )
    fitted.save(tmp_path / "new" / "latency.json")
    assert LatencyModel.load(tmp_path / "new" / "latency.json") == fitted


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"slm": {}, "llm": {}, "serving": None})])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"latency\.json is no latency model.*rstitch latency"):
        LatencyModel.load(path)


def test_a_perfect_model_has_no_error() -> None:
    service = Service(32)
    asked = [[Run("slm", 9, discarded=True), Run("llm", 2)], [Run("llm", 30)], [Run("slm", 12)]]
    answers = [Measured("s", 20, tuple(runs), MODEL.trajectory_ms(20, runs, service)) for runs in asked]
    checked = check(MODEL, answers, service)
    assert checked.median_error.value == pytest.approx(0)
    assert checked.rank_correlation == pytest.approx(1)
    assert [row["n"] for row in checked.rows()] == [3, 3]
