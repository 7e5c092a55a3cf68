"""The paired matrix: its figures are right on records made up for it, and a small one of the real stack adds up."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import typer

from evals.asking import stacks
from evals.asking.ask import Job, ask
from evals.asking.blocks import Plan, measure
from evals.asking.load import Load, closed_loop, open_loop, poisson_arrivals
from evals.asking.record import PLACES, Record
from evals.asking.run_file import Run
from evals.asking.stack_options import RouterOrStack
from evals.asking.systems import System
from evals.bench.__main__ import main
from evals.bench.collector import Collector
from evals.bench.in_process import EngineAlone
from evals.figures import answers as figures
from evals.figures import plots, tables
from evals.figures.statistics import paired_ratio
from evals.tasks.data import Problem
from rstitch.service.telemetry import setup_telemetry
from tests.support.engines import make_engine
from tests.support.options import parsed


def record(problem: int, latency_ms: float, num_tokens: int = 10, **values: Any) -> Record:
    """An answer that began with its block."""
    usage = {"num_llm_tokens": num_tokens, "breakdown": values.pop("breakdown", {})}
    fields = {"system": "x", "block": problem, "client_ttft_ms": 1.0, "correct": True, "usage": usage}
    return Record(problem=problem, id="", sample=0, seed=0, client_ms=latency_ms, **(fields | values))


def problems(n: int) -> list[Problem]:
    return [Problem(index, str(index), f"question {index}", "", {}) for index in range(n)]


# Figures of made-up records.


def test_percentiles_lie_between_neighbours() -> None:
    ours = [record(i, latency) for i, latency in enumerate((10, 20, 30, 40, 50))]
    (row,) = figures.rows(Run({}, [], ours), clock="client")
    assert (row["latency_p50_ms"], row["latency_p90_ms"], row["latency_p99_ms"]) == pytest.approx((30, 46, 49.6))
    assert figures.speed(ours, [record(0, 30)])["speed_up_p50"] == pytest.approx(1)


def test_tpot_leaves_the_first_token_out() -> None:
    assert record(0, 100, num_tokens=11, client_ttft_ms=20).client_tpot_ms == pytest.approx(8)
    assert record(0, 100, num_tokens=1).client_tpot_ms == 0


def test_the_speed_up_is_shorter_traces_times_cheaper_tokens() -> None:
    theirs = [record(i, 200 + i, num_tokens=100, system="llm_only") for i in range(8)]
    ours = [record(i, 50 + i, num_tokens=50) for i in range(8)]
    _, row = figures.rows(Run({}, [], [*theirs, *ours]), clock="client")
    assert row["shorter"] == pytest.approx(2)
    assert row["speed_up"] == pytest.approx(fmean(r.client_ms for r in theirs) / fmean(r.client_ms for r in ours))
    assert row["shorter"] * row["cheaper"] == pytest.approx(row["speed_up"])
    assert row["speed_up_low"] < row["speed_up"] < row["speed_up_high"]


def test_throughput_counts_each_block_once_and_to_its_last_answer() -> None:
    together = [record(i, latency, block=0) for i, latency in enumerate((1000, 1500, 500))]
    alone = [record(3, 500, block=1)]
    row = figures.throughput([*together, *alone])
    assert (row["wall_s"], row["requests_per_s"], row["output_tokens_per_s"]) == pytest.approx((2, 2, 20))


def test_the_places_of_a_token_are_weighted_by_tokens() -> None:
    told = [
        record(0, 10, num_tokens=10, breakdown={"llm_forward_us": 9000}),
        record(1, 50, num_tokens=40, breakdown={"llm_forward_us": 36000}),
    ]
    row = figures.places(told)
    assert (row["llm_forward"], row["client"], row["store"]) == pytest.approx((0.9, 0.3, 0))
    assert row["total"] == pytest.approx(sum(row[place] for place in PLACES))
    assert figures.places([record(0, 10)]) == {}


def test_a_variant_is_compared_problem_by_problem() -> None:
    plain = [record(i, 100 + 50 * i, num_tokens=100) for i in range(9)]
    slower = [replace(r, client_ms=1.1 * r.client_ms) for r in plain]
    row = figures.variation(slower, plain)
    assert (row["ratio"], row["ratio_low"], row["ratio_high"], row["median_ratio"]) == pytest.approx((1.1,) * 4)
    assert row["per_token_ms"] == pytest.approx(0.1 * fmean(r.client_ms for r in plain) / 100)


def test_the_interval_of_a_ratio_holds_the_ratio() -> None:
    ratio, low, high = paired_ratio([2, 4, 9], [1, 2, 3])
    assert ratio == pytest.approx(15 / 6)
    assert 2 <= low < ratio < high <= 3


# Loads.


class Busy(System):
    """Answers after a few turns of the loop and notes how many questions it had at once."""

    def __init__(self, name: str = "busy") -> None:
        super().__init__(name)
        self.now = self.most = 0
        self.asked: list[str] = []

    async def answer(self, problem: Problem, sample: int = 0) -> Record:
        self.asked.append(problem.prompt)
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(3):
            await asyncio.sleep(0)
        self.now -= 1
        return Record(self.name, problem.index, "", sample, 0, usage={"num_llm_tokens": 1})


@pytest.mark.parametrize("num_sessions", [1, 3, 20])
async def test_a_closed_loop_keeps_its_sessions_busy(num_sessions: int) -> None:
    system, asked = Busy(), problems(12)
    done = await ask([Job(system, problem) for problem in asked], Load(num_sessions))
    assert system.most == min(num_sessions, 12)
    assert [record.problem for record in done] == list(range(12))
    assert sorted(system.asked) == sorted(problem.prompt for problem in asked)


async def test_arrivals_do_not_wait_for_answers() -> None:
    system = Busy()
    done = await open_loop(system.answer, problems(3), [0.0, 0.0, 0.0])
    assert system.most == 3
    assert [record.problem for record in done] == [0, 1, 2]


async def test_the_first_error_ends_all_sessions() -> None:
    asked = []

    async def answer(number: int) -> None:
        asked.append(number)
        await asyncio.sleep(0)
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        await closed_loop(answer, range(12), 3)
    assert asked == [0, 1, 2]


async def test_waiting_since_an_arrival_counts() -> None:
    (first, second) = await ask([Job(Busy(), problem) for problem in problems(2)], Load(rate=200.0), seed=1)
    assert (first.start_s, second.start_s) == pytest.approx(poisson_arrivals(200.0, 2, (1, 0)), abs=1e-6)
    assert all(record.client_ms >= record.client_ttft_ms >= 0 for record in (first, second))


def test_poisson_arrivals_are_seeded_and_have_their_rate() -> None:
    times = poisson_arrivals(5.0, 4000, (0, 1))
    assert times == poisson_arrivals(5.0, 4000, (0, 1)) != poisson_arrivals(5.0, 4000, (0, 2))
    gaps = [b - a for a, b in pairwise(times)]
    assert times[0] == 0
    assert fmean(gaps) == pytest.approx(0.2, rel=0.1)
    assert fmean(gap * gap for gap in gaps) == pytest.approx(2 * 0.2**2, rel=0.15)  # exponential


@pytest.mark.parametrize("load", [Load(1), Load(4), Load(64), Load(rate=2.0)])
def test_a_plan_asks_whole_blocks_and_enough(load: Load) -> None:
    plan = Plan(num_problems=64)
    assert plan.num_asked(load) >= 64
    assert plan.num_asked(load) == plan.num_blocks(load) * plan.block_size(load)
    assert load.is_alone or plan.num_blocks(load) >= 2


class Letters:
    """A tokenizer of one token per letter."""

    def apply_chat_template(self, chat: list[dict[str, str]], **options: object) -> list[int]:
        return [ord(letter) - ord("a") for letter in chat[0]["content"]]

    def decode(self, tokens: list[int], **options: object) -> str:
        return "".join(chr(ord("a") + token) for token in tokens)


async def test_the_engine_in_process_answers_many_as_it_answers_one() -> None:
    asked = [Problem(i, "", word, "", {}) for i, word in enumerate(("question", "an", "other", "one"))]
    together, alone = (EngineAlone("engine", make_engine()[0], Letters(), max_new_tokens=9) for _ in range(2))
    done = await ask([Job(together, problem) for problem in asked], Load(4))
    assert [record.text for record in done] == [(await alone.answer(problem)).text for problem in asked]
    assert all(0 < record.client_ttft_ms < record.client_ms for record in done)


async def test_an_engine_that_fails_is_told_to_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make_engine()

    def fail() -> None:
        raise RuntimeError("lost")

    monkeypatch.setattr(engine, "step", fail)
    system = EngineAlone("engine", engine, Letters(), max_new_tokens=9)
    with pytest.raises(RuntimeError, match="lost"):
        await asyncio.gather(*(system.answer(Problem(i, "", "one", "", {})) for i in range(2)))


async def test_a_variant_stands_beside_what_it_varies() -> None:
    systems = [Busy("llm_only"), Busy("llm_only (eager)")]
    plain, varied = figures.under_load(await measure(systems, problems(2), Load(1), Plan(2)), Load(1))
    assert (plain["variation"], varied["system"]) == (None, "llm_only (eager)")
    assert varied["variation"]["ratio"] == pytest.approx(varied["latency_ms"] / plain["latency_ms"])
    result = {"rows": [plain, varied], "baseline": "llm_only", "settings": {}}
    titles = [str(table.title) for table in tables.matrix_terminal(result)]
    assert "1 session: variants over the same system without" in titles


async def test_all_systems_answer_a_block_before_the_next_is_asked() -> None:
    found = await measure([Busy("llm_only"), Busy("other")], problems(3), Load(1), Plan(3))
    assert [(record.problem, record.system) for record in found] == [
        (0, "llm_only"), (0, "other"), (1, "other"), (1, "llm_only"), (2, "llm_only"), (2, "other")
    ]  # fmt: skip
    assert [row["system"] for row in figures.under_load(found, Load(1))] == ["llm_only", "other"]


# Flags.


def test_a_variant_is_a_name_and_flags() -> None:
    name, flags = stacks.named_variant("eager: --router-arg=--catch-up-tokens=0 --worker-arg=--num-pages=9")
    assert (name, flags.router, flags.worker) == ("eager", ["--catch-up-tokens=0"], ["--num-pages=9"])
    for wrong in ("eager", "eager:", ": --router-arg=--a=1", "eager: --catch-up-tokens=0"):
        with pytest.raises(typer.BadParameter, match="NAME: FLAGS"):
            stacks.named_variant(wrong)


def test_flags_of_a_stack_have_both_of_their_names_and_what_comes_last_wins() -> None:
    short = parsed(RouterOrStack, ["--slm", "a", "--llm", "b", "--worker-arg=--x=2"])
    long = parsed(RouterOrStack, ["--slm-model", "a", "--llm-model", "b", "--worker-arg=--x=2"])
    assert stacks.models(short) == stacks.models(long) == ("a", "b")
    stack = stacks.local_stack(short, stacks.Flags(worker=["--x=3"]), defaults=stacks.Flags(worker=["--x=1"]))
    assert stack._crew.options["slm"].args == ["--x=1", "--x=2", "--x=3"]
    assert parsed(RouterOrStack, ["--models", "folder"]).models == Path("folder")


WRONG = [
    ["--concurrency", "0"],
    ["--rate", "2,0.0"],
    ["--rate", "inf"],
    ["--taus", "small"],
    ["--taus", "0.1,nan"],
    ["--systems", "engine,vllm"],
    ["--variant", "x"],
    ["sprint"],
]


@pytest.mark.parametrize("arguments", WRONG)
def test_flags_that_cannot_be_right_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert arguments[0] in said
    assert arguments[-1].split(",")[-1] in said


def test_nothing_to_measure_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--concurrency", ""]) == 2
    assert "name a --concurrency or a --rate" in capsys.readouterr().out


def test_the_collector_takes_what_a_service_sends() -> None:
    with Collector() as collector:
        telemetry = setup_telemetry("bench", collector.endpoint)
        telemetry.tracer.start_span("one").end()
        telemetry.shutdown()
    assert collector.num_bytes > 0


# The real stack.


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All systems, two problems, one and two sessions."""
    file = tmp_path_factory.mktemp("bench") / "result.json"
    # fmt: off
    assert main(["run", "--n", "2", "--rounds", "1", "--concurrency", "1,2", "--taus", "0.02", "--max-new-tokens", "48",
                 "--worker-arg=--measure-ms=100", "--worker-arg=--num-pages=4096",
                 "--json", str(file)]) == 0
    # fmt: on
    return json.loads(file.read_text())


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_matrix_of_the_real_stack_adds_up(result: dict[str, Any]) -> None:
    alone = ["generate", "assisted", "engine", "llm_only", "slm_only", "tau=0.02"]
    many = [name for name in alone if name != "assisted"]
    found = {(row["load"], row["system"]): row for row in result["rows"]}
    assert list(found) == [("1 session", name) for name in alone] + [("2 sessions", name) for name in many]
    assert result["baseline"] == "llm_only"
    for (load, system), row in found.items():
        mine = [r for r in result["records"] if (r["load"], r["system"]) == (load, system)]
        assert row["n"] == len(mine) == (2 if load == "1 session" else 4)
        assert row["tokens"] == fmean(len(r["tokens"]) for r in mine)
        assert row["shorter"] * row["cheaper"] == pytest.approx(row["speed_up"])
        assert all(0 < r["client_ttft_ms"] <= r["client_ms"] for r in mine)
    for load in ("1 session", "2 sessions"):
        assert found[load, "llm_only"]["speed_up"] == found[load, "llm_only"]["requests_ratio"] == 1
        assert found[load, "llm_only"]["llm_share"] == 1
        assert found[load, "slm_only"]["llm_share"] == 0


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_llm_writes_the_same_by_every_way(result: dict[str, Any]) -> None:
    written = {
        name: [(r["usage"]["num_llm_tokens"], r["correct"]) for r in result["records"] if r["system"] == name]
        for name in ("generate", "engine", "llm_only")
    }
    assert written["generate"] == written["engine"] == written["llm_only"]


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_time_of_a_token_is_all_accounted_for(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        told = row["places_ms_per_token"]
        assert bool(told) == (row["system"] not in ("generate", "assisted"))
        if told:
            on_the_way = sum(told[place] for place in PLACES if place != "background")
            assert on_the_way == pytest.approx(told["total"], rel=0.05)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_tables_and_plot_show_every_system(result: dict[str, Any], tmp_path: Path) -> None:
    page = tables.matrix_document(result, Path("results/matrix.png"))
    for row in result["rows"]:
        assert f"| {row['system']} " in page
    assert result["provenance"]["commit"] in page
    assert len(tables.matrix_terminal(result)) == 7
    plots.matrix(result["rows"], tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 10_000
