"""What is predicted of a running pair beside what it does: costs in CPU time, and the whole way over a real stack."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from rich.console import Console

from evals.asking.record import Record
from evals.plan import check
from evals.plan.__main__ import main
from evals.plan.costs import Counted, LinearSteps, Spent, fit_steps
from evals.plan.metering import Look
from rstitch.local.stack import LocalStack
from tests.support.options import parsed


def _spent(steps: LinearSteps, num_steps: int, kept: int, others: int) -> Spent:
    cpu_s = steps.base_s * num_steps + steps.row_s * kept + steps.other_s * others
    counted = Counted(num_steps, kept + others, kept)
    return Spent([], 1.0, 2.0, {"slm worker": cpu_s, "router": 1.0}, {"slm": counted, "llm": Counted(0, 0, 0)})


def test_costs_are_found_from_runs_that_mix_them_differently() -> None:
    true = LinearSteps(0.002, 0.0001, 0.00003)
    mixes = [(100, 100, 50), (100, 1600, 800), (100, 100, 6400), (200, 800, 100)]
    found = fit_steps("slm", [_spent(true, *mix) for mix in mixes])
    assert found.base_s == pytest.approx(true.base_s)
    assert found.row_s == pytest.approx(true.row_s)
    assert found.other_s == pytest.approx(true.other_s)
    idle = _spent(true, 0, 0, 0)
    assert fit_steps("slm", [*[_spent(true, *mix) for mix in mixes], idle]) == found, "who took no step says nothing"


def test_cores_are_those_that_the_processes_had_and_those_that_were_idle() -> None:
    before, after = Look(10.0, {"a": 1.0, "b": 2.0}, 5.0), Look(12.0, {"a": 2.0, "b": 2.5}, 5.5)
    assert after.spent(before) == {"a": 1.0, "b": 0.5}
    assert after.cores(before) == pytest.approx((1.5 + 0.5) / 2)


def test_answers_are_described_by_those_that_were_had() -> None:
    usage = {"slm_tokens": 90, "llm_tokens": 10, "switches": 4, "prompt_tokens": 30, "catch_up_tokens": 60 + 100 - 8}
    other = {"slm_tokens": 190, "llm_tokens": 10, "switches": 2, "prompt_tokens": 50, "catch_up_tokens": 100 + 200 - 28}
    records = [
        Record("s", index, "", 0, 0, usage={f"num_{name}": number for name, number in each.items()})
        for index, each in enumerate((usage, other))
    ]
    found = check.answers_of(records)
    assert (found.tokens, found.prompt_tokens) == (150, 40)
    assert found.llm_share == pytest.approx(20 / 300)
    assert found.switches == pytest.approx(100 * 6 / 300)
    assert found.cv == pytest.approx(50 / 150)
    assert found.unseen_tokens == 18


@pytest.mark.parametrize("costs", ["cpu", "latency"])
def test_a_running_pair_is_predicted_and_measured(tiny_stack: LocalStack, costs: str) -> None:
    flags = [
        "--costs", costs, "--shares", "0.3", "--sessions", "2", "--n", "8", "--rounds", "1", "--pilot", "2",
        "--repeats", "1", "--max-new-tokens", "48",
    ]  # fmt: skip
    said = io.StringIO()
    found = asyncio.run(check.compare(parsed(check.Options, flags), tiny_stack, Console(file=said)))
    closed, arrivals = found["rows"]
    assert "predicted_p50_ms" in closed, "as many as there are sessions always find their rate"
    assert closed["load"] == "2 sessions"
    assert arrivals["load"].startswith("30% of")
    for row in (closed, arrivals):
        assert row["n"] == 8
        assert row["rate"] > 0
        assert row["cores"] > 0
        if "predicted_p50_ms" in row:  # else there were fewer cores than the load takes
            assert 0 < row["predicted_p50_ms"] <= row["predicted_p95_ms"]
            assert row["predicted_cpu_ms"] > 0
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["cpu_ms"] > 0
    assert "that were to be had the pair saturates at" in found["told"]
    assert json.dumps(found)
    assert said.getvalue().count("round 1") == 2


@pytest.mark.parametrize(
    ("flags", "named"), [(["--shares", "0.5,1"], "--shares"), (["--shares", "0"], "--shares"), (["--n", "1"], "--n")]
)
def test_loads_that_cannot_be_are_refused(flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *flags]) == 2
    assert named in capsys.readouterr().err
