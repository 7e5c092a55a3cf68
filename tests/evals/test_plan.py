"""How large a fleet has to be: the closed form beside queues that are known, and what the command makes of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from evals.latency import Decode, ModelLatency, Prefill
from evals.plan.__main__ import main
from evals.plan.fleet import Beside, Fleet, Model
from evals.plan.load import LAG, ROLES, Answers, Demand
from evals.plan.numbers import Goal, least, least_among, room_used
from evals.plan.queue import Station
from evals.plan.sharing import Threads, stretch_of
from evals.plan.steps import Measured
from rstitch.errors import RstitchError
from tests.support.planned import Linear, latency_file

ONE = Demand(1, 0, 1)  # a row, a run, nothing beside
PAIR = ["--slm", "l3lab/L1-1.5B-Short", "--llm", "Qwen/QwQ-32B", "--llm-cards", "2"]
PRESETS = [*PAIR, "--rate", "20"]


SMALL = Model(Linear(0.001, 0.0001, 0.00001), 128, 300_000)
LARGE = Model(Linear(0.01, 0.0003, 0.00003), 128, 300_000)
FLEET = Fleet({"slm": SMALL, "llm": LARGE}, {"slm": 1, "llm": 2}, Answers())


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_steps_that_grow_with_their_rows_are_one_server_shared(load: float) -> None:
    found = Station(Linear(0, 2.0), ONE, 1024, 0).at(load / 2)
    assert found.rows == pytest.approx(load / (1 - load), rel=1e-3), "M/M/1"
    assert found.token_s == pytest.approx(2 / (1 - load), rel=1e-3)
    assert found.busy == pytest.approx(load, rel=1e-3)


@pytest.mark.parametrize("cv", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_one_row_at_a_time_waits_as_pollaczek_and_khinchin_say(load: float, cv: float) -> None:
    found = Station(Linear(1), ONE, 1, 0, run_cv=cv).at(load)
    assert found.wait_s == pytest.approx(load * (1 + cv**2) / 2 / (1 - load)), "M/D/1 at 0, M/M/1 at 1"
    assert found.begin_s == 0


@pytest.mark.parametrize("load", [0.2, 0.8])
def test_steps_that_do_not_grow_are_as_many_servers_as_rows(load: float) -> None:
    servers = 8
    offered = load * servers
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - load)
    erlang = last / (sum(terms) + last)
    found = Station(Linear(1), ONE, servers, 0).at(offered)
    assert found.rows == pytest.approx(offered)
    assert found.waiting == pytest.approx(erlang * load / (1 - load)), "M/M/c"


def test_a_worker_saturates_at_what_its_full_steps_do() -> None:
    station = Station(Linear(0.01, 0.001, 0.0001), Demand(100, 50, 2), 16, 0)
    # 16 rows, and half as many other tokens: 0.01 + 0.016 + 0.0008 s for 16 of the 100 tokens.
    assert station.saturation == pytest.approx(16 / (100 * 0.0268))
    assert station.at(station.saturation * 1.001).is_overloaded
    near = station.at(station.saturation * 0.999)
    assert not near.is_overloaded
    assert near.waiting > 100


def test_other_tokens_make_steps_longer_until_none_keeps_up() -> None:
    station = Station(Linear(1, 0, 0.1), ONE, 4, 0)
    assert station.step_s(1, 0) == 1
    assert station.step_s(1, 5) == pytest.approx(2, rel=1e-3), "half of the time is theirs"
    assert station.step_s(1, 10) == math.inf


def test_latency_grows_with_the_rate_and_falls_with_workers() -> None:
    most = FLEET.saturation_of_all
    states = [FLEET.at(share * most) for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)]
    for quantile in (0.5, 0.95):
        values = [state.latency.quantile_s(quantile) for state in states]
        assert values == sorted(values)
    assert [state.token_s for state in states] == sorted(state.token_s for state in states)
    more = replace(FLEET, numbers={"slm": 2, "llm": 4})
    assert more.at(0.9 * most).latency.mean_s < states[4].latency.mean_s
    assert more.saturation_of_all == pytest.approx(2 * most)
    assert FLEET.at(1.01 * most).latency.mean_s == math.inf


def test_an_idle_fleet_takes_what_its_steps_take() -> None:
    answers = replace(FLEET.answers, cv=0.0)
    beside = Beside(answer_ms=5, switch_ms=2)
    latency = replace(FLEET, answers=answers, beside=beside).at(1e-6).latency
    steps = 820 * SMALL.steps.step_s(1, 0, 0) + 200 * LARGE.steps.step_s(1, 0, 0)
    prompt = 300 * 0.00001
    assert latency.mean_s == pytest.approx(0.005 + prompt + steps + 40 * 0.002, rel=1e-3)
    assert latency.quantile_s(0.95) == pytest.approx(latency.mean_s, rel=1e-2), "all answers are alike"


def test_quantiles_are_those_of_the_lengths_where_nothing_waits() -> None:
    latency = replace(FLEET, beside=Beside(answer_ms=0, switch_ms=0)).at(1e-6).latency
    sigma = math.sqrt(math.log1p(0.6**2))
    assert latency.quantile_s(0.95) / latency.quantile_s(0.5) == pytest.approx(math.exp(1.645 * sigma), rel=0.01)


def test_what_answers_ask_of_each_model_adds_up() -> None:
    answers = Answers(1000, 0, 300, 50, 0.2, 4)
    slm, llm = (answers.demand(role) for role in ROLES)
    assert slm == Demand(800 + 20, 300 + 200 - 0.2 * LAG, 21), "a proposal is thrown away at each switch to the LLM"
    assert llm == Demand(200, 300 + 800 - 0.8 * LAG, 20), "which is behind where the SLM ends"
    assert answers.context == 50 + 300 + 500
    alone = Answers(llm_share=1, switches=0)
    assert alone.demand("slm") == Demand(0, 0, 0)
    assert alone.demand("llm") == Demand(1000, 300, 1)


def test_the_least_workers_hold_the_goal_and_one_less_does_not() -> None:
    chosen = least(FLEET, 100, Goal(0.7))
    assert all(each.load <= 0.7 for each in chosen.state.workers.values())
    for role, count in chosen.fleet.numbers.items():
        if count > 1:
            fewer = replace(chosen.fleet, numbers={**chosen.fleet.numbers, role: count - 1})
            assert fewer.at(100).workers[role].load > 0.7
    assert set(chosen.bounds.values()) == {"steps"}
    p95 = chosen.state.latency.quantile_s(0.95)
    faster = least(FLEET, 100, Goal(0.7, 0.9 * p95))
    assert faster.state.latency.quantile_s(0.95) <= 0.9 * p95
    assert "latency" in faster.bounds.values()
    for role, count in faster.fleet.numbers.items():
        if faster.bounds[role] == "latency":
            fewer = replace(faster.fleet, numbers={**faster.fleet.numbers, role: count - 1})
            assert fewer.at(100).latency.quantile_s(0.95) > 0.9 * p95
    with pytest.raises(RstitchError, match="--target-p95: idle workers take"):
        least(FLEET, 100, Goal(0.7, 0.1))


def test_a_cache_that_holds_few_sessions_asks_for_more_workers() -> None:
    tight = replace(FLEET, models={"slm": SMALL, "llm": replace(LARGE, kv_tokens=20_000)})
    chosen = least(tight, 20, Goal())
    assert chosen.bounds["llm"] == "pages"
    assert room_used(chosen.fleet, chosen.state, "llm") <= 1
    assert chosen.fleet.sessions_that_fit("llm") == 15


def test_sessions_that_wait_for_their_answers_make_the_rate() -> None:
    chosen = least_among(FLEET, 64, Goal())
    assert chosen.state.under_way == pytest.approx(64, rel=0.01)
    assert chosen.state.rate == pytest.approx(chosen.fleet.among(64).rate)


def test_cores_that_all_share_stretch_steps_and_bound_the_rate() -> None:
    one = replace(FLEET, numbers={"slm": 1, "llm": 1})
    shared = replace(one, beside=Beside(router_us=200, worker_us=100, cores=2))
    apart = replace(one, beside=Beside(router_us=200, worker_us=100))
    # Of 2 cores a token takes 0.3 ms outside of steps, so no more than 6.7 answers of 1,000 tokens a second.
    assert 0 < shared.saturation_of_all < min(apart.saturation_of_all, 6.7)
    stretches = [shared.at(share * shared.saturation_of_all).stretch for share in (0.1, 0.5, 0.9)]
    assert 1 < stretches[0] < stretches[1] < stretches[2]
    assert shared.at(1).latency.mean_s > apart.at(1).latency.mean_s
    half = replace(one, beside=Beside(router_us=0, cores=0.5))
    assert half.at(1e-6).stretch == pytest.approx(2, rel=1e-3), "half a core takes twice as long"
    assert shared.at(1.01 * shared.saturation_of_all).latency.mean_s == math.inf
    many = shared.among(1000)
    assert many.rate == pytest.approx(shared.saturation_of_all, rel=1e-3)
    assert many.under_way == pytest.approx(1000), "all of them are answered or wait"
    roomy = replace(apart, beside=Beside(router_us=200, cores=64))
    assert roomy.saturation_of_all == pytest.approx(min(apart.saturation_of_all, 1 / 0.2), rel=0.01), "it has one core"


def test_an_idle_worker_computes_other_tokens_in_steps_of_their_own() -> None:
    station = Station(Linear(0.01, 0.001, 0.0001), Demand(100, 320, 1), 8, 0)
    rate = 1e-6
    found = station.at(rate)
    assert found.busy == pytest.approx(rate * 100 * 0.011, rel=1e-3)
    assert found.alone == pytest.approx(rate * 10 * (0.011 + 31 * 0.0001), rel=1e-3), "32 at a time"
    busier = station.at(0.9 * station.saturation)
    assert 0 < busier.alone < 1 - busier.busy


def test_threads_that_want_a_core_share_them_evenly() -> None:
    assert stretch_of([Threads(0.9)], 2, 1) == 1
    assert stretch_of([Threads(0.5), Threads(0.5)], 1, 2) == 2, "both want the one core all the time"
    assert stretch_of([Threads(0.4, 5)], 2, 2.5) == pytest.approx(2.5), "five want two"
    assert stretch_of([Threads(0.25), Threads(0.25)], 1, 2) == 1.5, "the other wants it half of the time"
    apart = stretch_of([Threads(0.3), Threads(0.3), Threads(0.7)], 2, 1.2)
    assert stretch_of([Threads(0.3, 2), Threads(0.7)], 2, 1.2) == pytest.approx(apart)
    assert 1 < apart < 1.2
    assert stretch_of([Threads(0.0, 2)], 0.5, 1) == 2, "half a core takes twice as long"


def test_measured_steps_are_one_row_as_it_was_fitted_and_grow_as_the_worker_measured() -> None:
    shapes = [[1, 1, 1000], [8, 1, 2000], [1, 64, 3000]]
    latency = ModelLatency(Prefill(0, 0, 0, 1), Decode(0.01, 1.68), {}, {"step_costs": shapes})
    steps = Measured(latency)
    assert steps.step_s(1, 0, 32) == pytest.approx(0.002), "1.68 ms and 0.01 for each of 32 tokens before it"
    assert steps.step_s(8, 0, 32) == pytest.approx(0.004)
    assert steps.step_s(8, 0, 132) == pytest.approx(0.004 + 8 * 100 * 0.01 / 1000)
    assert steps.step_s(1, 64, 32) == pytest.approx(0.006)
    with pytest.raises(ValueError, match="nothing of steps with several rows"):
        Measured(ModelLatency(Prefill(0, 0, 0, 1), Decode(0, 1)))


def test_the_command_plans_a_known_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plan.png"
    assert main([*PRESETS, "--json", "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cards"] == found["workers"]["slm"] + 2 * found["workers"]["llm"]
    assert {row["role"] for row in found["chosen"]} == {"slm", "llm"}
    assert all(0 < row["load"] <= 0.7 and 0 < row["room"] <= 1 for row in found["chosen"])
    assert found["routers"] == math.ceil(20 * 1000 * 165e-6 / 0.7)
    assert [row["p95_s"] for row in found["loads"]] == sorted(row["p95_s"] for row in found["loads"])
    assert plot.stat().st_size > 0


def test_a_measured_pair_is_planned_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--latency-model", str(latency_file(tmp_path)), "--slm-workers", "1", "--llm-workers", "1", "--json"]
    assert main([*flags, "--concurrency", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["workers"] == {"slm": 1, "llm": 1}
    assert set(found["bounds"].values()) == {"given"}
    assert found["chosen"][0]["fit"] == 50_000 // 1300
    assert main([*flags, "--concurrency", "4", "--cores", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["rate"] < found["rate"]
    assert main([*flags[:-1], "--concurrency", "4", "--cores", "2"]) == 0
    told = capsys.readouterr().out
    assert "the chosen fleet by load" in told
    assert "times as long as alone, waiting for a core" in told


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--rate: nothing says how much is asked. Give --rate"),
        (["--rate", "0"], "--rate: 0 answers a second are no load. Give more than 0."),
        (["--rate", "-1"], "--rate: -1 answers"),
        (["--rate", "1", "--concurrency", "2"], "--concurrency: it stands beside --rate"),
        (["--rate", "1", "--llm-share", "1.5"], "--llm-share: 1.5 is no share. Give 0 to 1"),
        (["--rate", "1", "--llm-share", "-0.1"], "--llm-share: -0.1 is no share"),
        (["--rate", "1", "--llm-share", "1%", "--switches", "4"], "--switches: 4 in 100 tokens leave no token"),
        (["--rate", "1", "--switches", "0"], "--switches: 0 do not go with an LLM share of 0.2"),
        (["--rate", "1", "--tokens", "0"], "--tokens: 0 is out of range"),
        (["--rate", "1", "--target-p95", "0"], "--target-p95: 0 s are no time"),
        (["--rate", "1", "--target-p95", "0.01"], "--target-p95: idle workers take"),
        (["--rate", "1", "--slm-card", "abacus"], "--slm-card: 'abacus' is no card that is known here. Name one of l4"),
        (["--rate", "1", "--card", "1,2"], "--slm-card: '1,2' is no card"),
        (["--rate", "1", "--llm-precision", "int3"], "--llm-precision: Qwen/QwQ-32B is not for 'int3'. Choose of"),
        (["--rate", "1", "--llm-card", "l4"], "--llm-cards: Qwen/QwQ-32B in bf16 takes 65.5 GB: 2 x l4 has no room"),
        (["--rate", "1", "--cores", "2"], "--cores: on one machine more workers are no more cores"),
        (["--rate", "1", "--latency-model", "nowhere.json"], "--latency-model: nowhere.json"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_its_flag(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PAIR, *flags]) == 2
    assert said in capsys.readouterr().err


def test_workers_that_are_too_few_are_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--latency-model", str(latency_file(tmp_path)), "--slm-workers", "1", "--llm-workers", "1"]
    assert main([*flags, "--rate", "1000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["saturation"] < 1000
    assert {row["p95_s"] for row in found["chosen"]} == {None}
    assert main([*flags, "--rate", "1000"]) == 0
    assert "An answer takes inf s" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_nobody_knows_is_refused_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--rate", "1", "--llm", "Qwen/QwQ-32B"]) == 2
    assert "--slm: no model is named. Name one of l3lab/L1-1.5B-Short" in capsys.readouterr().err
    assert main(["--rate", "1", "--slm", str(tmp_path), "--llm", "Qwen/QwQ-32B"]) == 2
    assert f"--slm: {tmp_path}" in capsys.readouterr().err


def test_a_file_without_steps_of_several_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rate", "1", "--latency-model", str(latency_file(tmp_path, step_costs=[]))]) == 2
    assert "--latency-model: the latency model says nothing of steps with several rows" in capsys.readouterr().err
