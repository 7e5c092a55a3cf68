"""The command: from questions to a head's files, and what it refuses."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from evals.evaluation.__main__ import main as evaluate
from evals.latency import Decode, LatencyModel, ModelLatency, Prefill
from rstitch.errors import InvalidArgument, RstitchError
from rstitch.service.head import Head
from training.commands import run
from training.head.__main__ import main
from training.head.asking import reached_by
from training.head.asking import test_command as command_for_test
from training.head.command import questions_of
from training.head.flags import Flags
from training.head.latency import another_pair, latency_of
from training.head.options import Options, settled
from training.head.pair import Pair
from training.head.progress import Screen, left_in_words, sparkline
from training.head.questions import load_questions
from training.head.recipe import Recipe
from training.head.refusals import refuse
from training.head.train import CHECKPOINT
from training.head.warm_start.sources import NUM_ANSWERS

LATENCY = LatencyModel(
    ModelLatency(Prefill(0, 0, 0.03, 1.0), Decode(0, 1.0)), ModelLatency(Prefill(0, 0, 0.1, 2.0), Decode(0, 3.0))
)


def told(*flags: str) -> tuple[Options, Recipe]:
    """What a run is told by these flags."""
    given: list[Flags] = []

    def keep(flags: Flags) -> None:
        given.append(flags)

    assert run(keep, "rstitch train-head", None, flags) == 0
    return settled(given[0])


@pytest.mark.slow
def test_the_command_makes_a_head_and_goes_on_with_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LATENCY.save(tmp_path / "latency.json")
    out, work = tmp_path / "heads" / "quick", tmp_path / "work"
    # fmt: off
    arguments = ["--task", "tiny", "--name", "quick", "--in-process", "--fast", "--json", "--split", "8/4/0",
                 "--num-alone", "4", "--taus", "0.02", "--prices", "1", "--max-new-tokens", "120",
                 "--latency-model", str(tmp_path / "latency.json"), "--out", str(out), "--work", str(work)]
    # fmt: on
    assert main([*arguments, "--num-steps", "1"]) == 0
    head = Head.from_bytes((out / "head.safetensors").read_bytes())
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [1]
    assert events[-1] == {"event": "head", "name": f"quick@{head.version}", "step": 0, "folder": str(out)}
    assert f"`{head.version}`" in (out / "README.md").read_text()
    assert (work / CHECKPOINT).exists()

    assert main([*arguments, "--num-steps", "2"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "resumed" in {event["event"] for event in events}
    assert [event["step"] for event in events if event["event"] == "step"] == [2]

    assert main([*arguments, "--seed", "7"]) == 2
    assert "begun with another" in capsys.readouterr().err
    assert main([*arguments, "--work", str(tmp_path / "new"), "--latency", str(tmp_path / "none.json")]) == 2
    assert "--latency" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--tau", "1"], ["--group-size", "1"], ["--warm-error", "0"], ["--target-loss", "1e-7", "--pure"]]
)
def test_what_cannot_be_is_refused(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--task", "tiny", "--name", "bad", "--in-process", "--split", "8/4/0", "--work", str(tmp_path)]
    assert main([*common, *flags]) == 2
    assert f"{flags[0]}:" in capsys.readouterr().err


def test_the_command_for_the_test_split_asks_the_pair_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("evals.evaluation.run.run", lambda options: bool(asked.append(options)))
    common = ["--name", "mine", "--task", "tiny", "--out", "heads/mine", "--max-new-tokens", "99"]
    for flags in (["--router", "there:1"], ["--slm", "small", "--llm", "large"]):
        options, _ = told(*common, *flags)
        judged_by = "--check exact --prompt '{question} Short.'"
        said = command_for_test(options, reached_by(options), judged_by, Path("w/test.jsonl"), "learned:mine,price=2")
        assert evaluate(shlex.split(said)[2:]) == 0
        parsed = asked[-1]
        assert (parsed.router or "", parsed.slm_model, parsed.llm_model) == (
            options.run.router, options.stack.slm_model, options.stack.llm_model
        )  # fmt: skip
        assert (parsed.data, parsed.max_new_tokens) == (Path("w/test.jsonl"), 99)
        assert (parsed.prompt, parsed.systems[-1]) == ("{question} Short.", "learned:mine,price=2")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--price", "0"], "--price"),
        (["--target-latency", "0.5x"], "--target-latency"),
        (["--target-loss", "1%"], "--target-loss"),
        (["--name", "my head"], "--name"),
        (["--name", "a" * 60], "--name"),
        (["--num-readout", "3"], "--num-readout"),
        (["--num-readout", "-1"], "--num-readout"),
        (["--warm-answers", "-1"], "--warm-answers"),
        (["--lr", "-1"], "--lr"),
        (["--taus", "0.01;0.02"], "--taus"),
        (["--prices", "1,0"], "--prices"),
        (["--hidden", "64,0"], "--hidden"),
        (["--features", "entropy,luck"], "--features"),
        (["--warm-lines", "mine"], "--warm-lines"),
        (["--warm-from", "dreams"], "--warm-from"),
        (["--target-loss", "little"], "--target-loss"),
        (["--price", "1e-6", "--target-latency", "2x"], "--target-latency"),
        (["--num-dev", "0"], "--num-dev"),
        (["--warm-from", "answers"], "--in-process"),
    ],
)
def test_bad_input_is_refused_before_anything_is_timed_or_asked(
    flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--task", "tiny", "--name", "bad", "--in-process", "--split", "8/4/0", "--work", str(tmp_path / "work")]
    assert main([*common, *flags]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_the_data_is_looked_at_for_what_the_warm_start_needs(tmp_path: Path) -> None:
    data = tmp_path / "programs.jsonl"
    rows = [{"question": f"What is {number}?", "answer": str(number)} for number in range(60)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    common = ["--name", "x", "--data", str(data), "--check", "math"]

    def refused(*flags: str) -> str:
        options, recipe = told(*common, *flags)
        with pytest.raises(InvalidArgument) as error:
            refuse(options, recipe, load_questions(None, data, "math"))
        return str(error.value)

    assert "column `solution`" in refused("--warm-from", "solutions")
    assert "has no reference chains" in refused("--warm-from", "chains")
    options, recipe = told(*common)
    assert recipe.warm_answers == NUM_ANSWERS
    assert options.warm_from == "answers", "a file of that name is not the task of that name"
    refuse(options, recipe, load_questions(None, data, "math"))


@pytest.mark.parametrize(
    ("row", "flags", "named"),
    [
        ({"text": "What?"}, [], "line 61: there is no column question"),
        ({"question": "What is 0?", "answer": "7"}, [], "one question with two answers"),
        ({}, ["--split", "98/1/1"], "Give at least 4"),
        ({}, ["--task", "none"], "there is no task 'none'"),
        ({}, ["--check", "magic"], "there is no check 'magic'"),
        ({"question": "Why?", "answer": "1", "solution": "\\boxed{2}"}, ["--num-alone", "61"], "wrong"),
        ({}, ["--latency", "none.json"], "--latency-model: none.json"),
        ({}, ["--warm-from", "logs"], "--router HOST:PORT"),
        ({}, ["--warm-lines", "llm"], "--warm-lines"),
        ({}, ["--activate"], "--activate: this run has no store that stays"),
    ],
)
def test_what_flags_and_file_show_is_refused_before_a_stack_is_started(
    row: dict[str, str], flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a stack is started")

    monkeypatch.setattr("training.head.command.local_stack", started)
    monkeypatch.setattr("training.head.baselines._NUM_CHECKED", 61)
    rows = [{"question": f"What is {number}?", "answer": str(number)} for number in range(60)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f"{json.dumps(each)}\n" for each in [*rows, row] if each))
    named_by = [] if "--task" in flags else ["--check", "exact"]
    common = ["--name", "bad", "--data", str(data), *named_by, "--split", "70/20/10", "--work", str(tmp_path / "work")]
    assert main([*common, *flags]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_folder_of_another_run_is_refused_before_a_stack_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made_of.json").write_text(json.dumps({"recipe": {"seed": 7}, "pair": "any"}))
    assert main(["--task", "tiny", "--name", "x", "--split", "8/4/0", "--models", "none", "--work", str(tmp_path)]) == 2
    assert "begun with another" in capsys.readouterr().err


def test_workers_that_cannot_be_timed_from_here_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object, **__: object) -> LatencyModel:
        raise RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "10.0.0.1:50051: no route")

    monkeypatch.setattr("training.head.latency.fit_pair", unreachable)
    options, _ = told("--name", "x", "--task", "tiny", "--router", "far:1", "--work", str(tmp_path))
    places = dict.fromkeys(("slm", "llm"), "cuda:0 float16")
    pair = Pair({"slm": "small", "llm": "large"}, places)
    data = tmp_path / "data.jsonl"
    rows = [{"question": f"What is {number}?", "answer": str(number)} for number in range(60)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(InvalidArgument, match="no route") as error:
        latency_of(options, pair, load_questions(None, data, "math"), Screen(Console(quiet=True)))
    assert "--latency-model FILE" in str(error.value.remedy)


def test_whose_latency_model_it_is_is_known_if_it_says_so() -> None:
    def fitted(role: str) -> ModelLatency:
        return replace(getattr(LATENCY, role), facts={"model": f"small-{role}", "device": "cpu", "dtype": "float32"})

    model = LatencyModel(fitted("slm"), fitted("llm"))
    places = dict.fromkeys(("slm", "llm"), "cpu float32")
    assert another_pair(model, Pair({"slm": "there/small-slm", "llm": "small-llm"}, places)) == ""
    pair = Pair({"slm": "small-slm", "llm": "large-llm"}, places)
    assert another_pair(model, pair) == "small-slm cpu float32 beside small-llm cpu float32"
    assert another_pair(LATENCY, pair) == "", "it does not say whose it is"


def test_the_recipe_is_the_defaults_but_for_what_is_given() -> None:
    def given(*flags: str) -> Recipe:
        return told("--name", "x", *flags)[1]

    assert given("--task", "tiny") == Recipe()
    assert given("--task", "gsm8k").warm_answers == NUM_ANSWERS
    assert given("--task", "gsm8k", "--pure").warm_answers == 0
    assert given("--task", "tiny", "--hidden", "64,32", "--features", "entropy,left").hidden == (64, 32)


def test_fast_looks_at_little_unless_more_is_asked_for() -> None:
    looks = told("--name", "x", "--task", "tiny", "--fast", "--num-dev", "50")[0].looks
    assert (looks.num_alone, looks.num_dev, looks.prices) == (8, 50, (1.0,))
    looks = told("--name", "x", "--task", "tiny")[0].looks
    assert (looks.num_alone, looks.num_dev, len(looks.prices)) == (200, None, 5)


def test_a_trial_with_a_target_is_let_run_whatever_it_can_promise(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"question": f"What is {number}?", "answer": str(number)} for number in range(60)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    common = ["--name", "x", "--data", str(data), "--check", "exact", "--target-loss", "3%", "--work", str(tmp_path)]
    assert questions_of(*told(*common, "--fast")).dev
    with pytest.raises(InvalidArgument, match="--target-loss"):
        questions_of(*told(*common))


def test_machines_are_told_what_there_is_only_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(Console(quiet=True), as_json=True)
    screen.say("note", "nothing to stitch")
    screen.say("look", "dev after step 1", step=1)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"event": "note", "words": "nothing to stitch"}, {"event": "look", "step": 1}]


def test_how_long_it_takes_is_said_with_what_it_costs() -> None:
    words = left_in_words(3_600, 36_000, 2.0, 4.0)
    assert words == "2.0 rollouts/s; 3,600 to 36,000 more of them: 30 min to 5.0 h, 2.00 to 20.00 in money"
    assert sparkline([0, 1, 2, 7]) == "▁▂▃█"
    assert sparkline([5, 5]) == "▁▁"


def test_a_step_tells_what_is_to_spare_of_a_target() -> None:
    curve = {"step": 1, "reward": 0.9, "accuracy": 0.95, "latency_ms": 50.0, "llm_share": 0.1, "price": 1e-3}
    target = {"slack_low": -0.01, "slack": 0.012, "slack_high": 0.034}
    told = io.StringIO()
    screen = Screen(Console(file=told, width=500))
    screen.step([curve], 2)
    screen.step([curve, curve | {"step": 2} | target], 2)
    first, second = told.getvalue().splitlines()
    assert first == "step 1/2: reward 0.900, accuracy 95.0%, modelled ms 50, LLM tokens 10.0%, lambda 1.00e-03"
    assert second.endswith("lambda 1.00e-03, to spare +1.2% [-1.0%, +3.4%]")
    screen.step([curve | {"slack": 0.03}], 2)
    assert told.getvalue().endswith("to spare +3.0%\n"), "all answers were alike: of the spread nothing is known"
    live = Screen(Console(file=io.StringIO(), width=120, force_terminal=True))
    with live:
        live.step([curve, curve | target], 2)
