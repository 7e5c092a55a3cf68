"""`rstitch latency` on a running stack: calls of real workers, whole answers, the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.latency import LatencyModel, runs_of
from evals.latency.__main__ import main
from evals.latency.answers import POLICIES
from evals.latency.pair import fit_pair
from evals.tasks.tiny.arithmetic import problems
from rstitch.client.sync import Client
from rstitch.client.types import Message, Threshold
from rstitch.local.stack import LocalStack

SMALL = ["--inputs", "2,8", "--cached", "0,16", "--repeats", "2", "--max-new-tokens", "16", "--answers", "1"]


def test_a_running_stack_is_profiled_and_checked(tiny_stack: LocalStack, tmp_path: Path) -> None:
    path, plot = tmp_path / "latency.json", tmp_path / "fit.png"
    flags = ["--router", tiny_stack.router_address, "--n", "1", "--json", str(path)]
    assert main(["check", *SMALL, *flags, "--plot", str(plot)]) == 0
    model = LatencyModel.load(path)
    assert model.slm.facts["model"] == "tiny-slm"
    assert float(model.llm.prefill(64, 64)) > 0
    assert model.serving is not None
    assert model.facts["cached"] == [0, 16]
    assert plot.stat().st_size > 0
    assert (tmp_path / "fit_check.png").stat().st_size > 0
    assert main(["check", *SMALL, *flags, "--model", str(path)]) == 0


def test_workers_alone_are_profiled_without_what_serving_adds(tiny_stack: LocalStack, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    assert main([*SMALL, "--workers", ",".join(tiny_stack.worker_addresses), "--json", str(path)]) == 0
    assert json.loads(path.read_text())["serving"] is None


async def test_a_running_pair_is_fitted_on_questions_of_its_own(tiny_stack: LocalStack) -> None:
    model = await fit_pair(
        tiny_stack.router_address, ["What is 2 and 2?"], max_new_tokens=8, repeats=2, inputs=(2, 8), cached=(0, 16)
    )
    assert (model.slm.facts["model"], model.llm.facts["model"]) == ("tiny-slm", "tiny-llm")
    assert model.serving is not None
    assert model.serving.fit is not None
    assert model.serving.fit.num_calls == len(POLICIES)


async def test_a_pair_that_takes_too_long_is_timed_once(tiny_stack: LocalStack) -> None:
    model = await fit_pair(
        tiny_stack.router_address, ["What is 2 and 2?"], max_new_tokens=8, repeats=50, inputs=(2, 8), cached=(0, 16),
        most_s=0.0,
    )  # fmt: skip
    assert model.facts["repeats"] == 1
    assert model.serving is not None


def test_the_runs_of_an_answer_are_those_that_its_usage_counts(tiny_stack: LocalStack) -> None:
    with Client(tiny_stack.router_address) as client:
        for problem in problems("dev", 2):
            answer = client.answer(chat=[Message("user", problem.question)], policy=Threshold(0.001), guard=False)
            num_prompt_tokens, runs = runs_of(client.trajectory(answer.session_id))
            usage = answer.finished.usage
            assert num_prompt_tokens == usage.num_prompt_tokens
            assert sum(run.num_tokens for run in runs if run.model == "slm") == usage.num_slm_tokens
            assert sum(run.num_tokens for run in runs if run.model == "llm") == usage.num_llm_tokens
            assert sum(run.discarded for run in runs) == usage.num_discarded_proposals > 0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--workers", "127.0.0.1:1"], "--workers"),
        (["check", "--workers", "127.0.0.1:1,127.0.0.1:2"], "--workers"),
        (["--workers", "127.0.0.1:1,127.0.0.1:2"], "127.0.0.1:1"),
        (["check", "--router", "127.0.0.1:1", "--model", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_is_refused(flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) in (1, 2)
    assert named in capsys.readouterr().err.replace("\n", "")
