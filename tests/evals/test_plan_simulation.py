"""A fleet, event by event: workers beside what is counted by hand, known queues, and who is placed where."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from evals.plan.__main__ import main
from evals.plan.fleet import Beside, Fleet, Model
from evals.plan.load import ROLES, Answers
from evals.plan.simulation import router
from evals.plan.simulation.clock import Clock
from evals.plan.simulation.fleet import Plan, Seen, Simulation
from evals.plan.simulation.speed import speeds
from evals.plan.simulation.worker import CatchUp, Run, Worker
from fleet.placement import Candidate, place
from tests.support.planned import Linear, latency_file

ALONE = Answers(tokens=100, cv=1.0, prompt_tokens=1, llm_share=0, switches=0)
BARE = Beside(answer_ms=0, switch_ms=0)
SMALL = Model(Linear(0.002, 0.0001, 0.00001), 64, 300_000)
LARGE = Model(Linear(0.01, 0.0003, 0.00003), 64, 300_000)
ROUTED = Answers(tokens=200, prompt_tokens=50, llm_share=0.2, switches=2)
MANY = Fleet({"slm": SMALL, "llm": LARGE}, {"slm": 60, "llm": 60}, ROUTED)


class Lab:
    """One worker of a clock, and when its runs ended."""

    def __init__(self, steps: Linear, max_rows: int = 8) -> None:
        self.clock = Clock()
        self.worker = Worker("slm-0", Model(steps, max_rows, 1000), self.clock)
        self.ended: dict[str, float] = {}

    def start(self, name: str, at: float, steps: int, feed: int = 1, behind: CatchUp | None = None) -> Run:
        def done(now: float) -> None:
            self.ended[name] = now

        run = Run(feed, steps, 0, behind or CatchUp(), done, lambda now, taken: None)
        self.clock.at(at, lambda now: self.worker.start(now, run))
        return run


def test_rows_share_steps_and_who_comes_joins_at_the_end_of_one() -> None:
    lab = Lab(Linear(0, 1.0))
    lab.start("long", 0, 10)
    lab.start("short", 2.5, 2)
    lab.clock.run(100)
    # Three steps alone, two of two rows, and five alone again.
    assert lab.ended == {"short": pytest.approx(3 + 4), "long": pytest.approx(3 + 4 + 5)}
    assert lab.worker.num_runs == 0


def test_a_prompt_is_computed_first_and_its_step_gives_the_first_token() -> None:
    lab = Lab(Linear(1, 0, 0.01))
    lab.start("fed", 0, 3, feed=100)
    lab.clock.run(100)
    assert lab.ended["fed"] == pytest.approx(2 + 1 + 1)
    long = Lab(Linear(1, 0, 0.01))
    long.start("fed", 0, 1, feed=1000)
    long.clock.run(100)
    assert long.ended["fed"] == pytest.approx(2 + 10), "two steps, of 511 and 489 tokens"


def test_no_more_rows_than_there_are_and_others_wait_in_line() -> None:
    lab = Lab(Linear(1), max_rows=1)
    for number in range(3):
        lab.start(f"{number}", 0, 2)
    lab.clock.run(100)
    assert list(lab.ended.values()) == pytest.approx([2, 4, 6])


def test_catch_up_rides_along_and_makes_a_step_a_quarter_longer() -> None:
    lab = Lab(Linear(1, 0, 0.01))
    behind = CatchUp()
    lab.start("writes", 0, 4)
    lab.clock.at(0.5, lambda now: lab.worker.catch_up(now, behind, 60))
    lab.clock.run(100)
    assert lab.ended["writes"] == pytest.approx(1 + 1.25 + 1.25 + 1.1), "25 tokens, 25 and 10"
    assert behind.left == 0


def test_catch_up_alone_has_steps_of_its_own() -> None:
    lab = Lab(Linear(0.001, 0, 0.0001))
    behind = CatchUp()
    lab.worker.catch_up(0.0, behind, 110)
    lab.start("probe", 0.007, 1)
    lab.clock.run(0.0133)
    # Of 50 tokens, which take 5 ms: two of them, and one with the row.
    assert lab.ended["probe"] == pytest.approx(2 * 0.006 + 0.00125)
    assert behind.left == pytest.approx(110 - 100 - 2.5)
    lab.clock.run(1)
    assert behind.left == 0


def test_what_is_left_of_a_catch_up_is_fed_to_its_run() -> None:
    lab = Lab(Linear(1, 0, 0.01))
    behind = CatchUp()
    lab.start("writes", 0, 100)
    lab.clock.at(0.5, lambda now: lab.worker.catch_up(now, behind, 300))
    lab.start("follows", 0.6, 1, behind=behind)
    lab.clock.run(300)
    assert lab.ended["follows"] == pytest.approx(1 + 1 + 3.01), "300 tokens and its own, in one step beside the row"


def test_a_worker_that_dies_says_what_its_runs_had_taken() -> None:
    lab = Lab(Linear(0, 1.0))
    first, second = lab.start("first", 0, 10), lab.start("second", 4.2, 10)
    lab.clock.run(9.5)
    # Five steps alone, two of two rows by 9.
    assert dict(lab.worker.die(9.5)) == {first: 7, second: 2}
    assert not lab.worker.is_alive
    lab.clock.run(100)
    assert lab.ended == {}


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_worker_is_as_fast_as_the_closed_form_says(load: float) -> None:
    one = Fleet({"slm": SMALL, "llm": LARGE}, {"slm": 1, "llm": 1}, ALONE, BARE)
    rate = load * one.saturation_of_all
    seen = Simulation(Plan(one, rate, 1, turns=1, begin_s=20, seconds=20 + 15_000 / rate)).run()
    state = one.at(rate)
    assert fmean(seen.latencies) == pytest.approx(state.latency.mean_s, rel=0.08)
    latencies = sorted(seen.latencies)
    assert latencies[len(latencies) // 2] == pytest.approx(state.latency.quantile_s(0.5), rel=0.08)
    assert latencies[19 * len(latencies) // 20] == pytest.approx(state.latency.quantile_s(0.95), rel=0.08)


def test_one_row_of_equal_runs_waits_as_pollaczek_and_khinchin_say() -> None:
    model = Model(Linear(0.01), 1, 300_000)
    one = Fleet({"slm": model, "llm": model}, {"slm": 1, "llm": 1}, replace(ALONE, cv=0.0), BARE)
    seen = Simulation(Plan(one, 0.6, 1, turns=1, begin_s=100, seconds=20_000)).run()
    assert fmean(seen.latencies) == pytest.approx(1 + 0.6 / (2 * 0.4), rel=0.04), "M/D/1: runs of a second at 0.6"


def test_two_roles_with_catch_up_are_near_the_closed_form() -> None:
    few = replace(MANY, numbers={"slm": 3, "llm": 3})
    rate = 0.5 * few.saturation_of_all
    seen = Simulation(Plan(few, rate, 2, think_s=1, begin_s=20, seconds=20 + 4000 / rate)).run()
    assert fmean(seen.latencies) == pytest.approx(few.at(rate).latency.mean_s, rel=0.15)


def _run(**changed: object) -> Seen:
    plan = Plan(MANY, 60.0, 8, think_s=5, begin_s=20, seconds=50)
    return Simulation(replace(plan, **changed)).run()  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_events() -> None:
    first, again, other = _run(deaths=20, drains=20), _run(deaths=20, drains=20), _run(deaths=20, drains=20, seed=1)
    assert first == again
    assert first.latencies != other.latencies


def test_sessions_are_placed_by_the_code_of_the_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Counter[str]()

    def counted(session: str, candidates: Sequence[Candidate]) -> Candidate | None:
        asked[session] += 1
        return place(session, candidates)

    monkeypatch.setattr(router, "place", counted)
    seen = _run()
    assert 1000 < asked.total() == seen.num_placed
    assert set(asked.values()) <= {2, 3, 4}, "once for each role, and once more if it moved"


def test_workers_have_nearly_as_many_sessions_each_and_more_evenly_than_by_other_ways() -> None:
    seen = {way: _run(way=way) for way in router.WAYS}
    for role in ROLES:
        spread = {way: fmean(look.cv for look in looks.spread[role]) for way, looks in seen.items()}
        assert spread["fleet"] < 0.75 * min(spread["least"], spread["random"], spread["turns"])
        assert fmean(look.most_over_mean for look in seen["fleet"].spread[role]) < 1.8


@pytest.mark.parametrize("way", ["fleet", "random"])
def test_nothing_is_lost_where_workers_die_and_are_drained(way: router.Way) -> None:
    plan = Plan(MANY, 60.0, 8, way, think_s=5, deaths=60, drains=60, back_s=5, begin_s=0, seconds=60)
    simulation = Simulation(plan)
    seen = simulation.run()
    assert seen.num_deaths > 20
    assert seen.num_drains > 20
    assert seen.moved["died"] > 20
    assert seen.moved["drained"] > 20
    assert seen.recomputed > 0
    for worker, sessions in simulation.held.items():
        assert worker.num_sessions == len(sessions)
        assert worker.is_alive or not sessions
    assert all(60 - asked_at < 20 for asked_at in simulation.asked.values()), "none hangs on a worker that is gone"
    assert seen.num_answers > 20 * len(simulation.asked) > 0


def test_what_decisions_cost_is_told_for_each_size() -> None:
    found = list(speeds((10, 1000), times=50))
    assert [row["workers"] for row in found] == [10, 1000]
    assert all(row[kind] > 0 for row in found for kind in ("place", "alike", "made", "overloaded"))


def test_the_command_tells_answers_spread_and_speeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "simulate", "--latency-model", str(latency_file(tmp_path)), "--workers", "6", "--routers", "2", "--rate", "4",
        "--tokens", "100", "--begin-s", "5", "--seconds", "5", "--ways", "fleet,turns",
    ]  # fmt: skip
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["way"] for row in found["answers"]] == ["fleet", "turns"]
    assert {row["role"] for row in found["spread"]} == {"slm", "llm"}
    assert main(flags) == 0
    assert "decisions a second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rate", "0"], "--rate: 0 answers a second are no load"),
        (["--rate", "1e9"], "--rate: 1e+09 answers a second are more than the"),
        (["--cores", "2"], "--cores: cores that all share are not simulated"),
        (["--ways", "magic"], "'magic' is none of fleet, least, random, turns"),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_its_flag(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--latency-model", str(latency_file(tmp_path)), *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
