"""`rstitch ask`: what it sends, what it shows, what it says when it cannot go on, and how Ctrl-C ends it."""

from __future__ import annotations

import json
import shlex
import signal
import time
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from typer.main import get_command

from rstitch.cli.app import app
from rstitch.client import Sampling
from rstitch.errors import RstitchError
from rstitch.v1 import common_pb2, router_pb2
from tests.cli.conftest import Run
from tests.support.fake_router import FakeRouter
from tests.support.scripted_answer import script


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_ask_shows_text_strip_switches_and_usage(run: Run, router: FakeRouter) -> None:
    result = run("ask", "What?")
    assert result.exit_code == 0, result.stderr
    assert "w5 w6 w7 " in result.stdout
    assert result.stdout.count("→") == 12
    assert "more (--json has all)" in result.stdout
    for fact in ("60 (SLM 40, LLM 20)", "33%", "1.50 s", "20 ms", "stop"):
        assert fact in result.stdout
    num_discarded = sum(e.switch.to == common_pb2.MODEL_LLM for e in router.answer if e.HasField("switch"))
    assert len(strip_of(result.stdout)) == 60 + num_discarded
    assert "■ discarded proposal" in result.stdout


def strip_of(shown: str) -> str:
    return "".join(line for line in shown.splitlines() if line and set(line) <= set("▁▂▃▄▅▆▇█"))


def test_the_strip_of_a_long_answer_is_folded_to_three_lines(run: Run, router: FakeRouter) -> None:
    router.answer = script(num_tokens=1000)
    run("ask", "What?", "--session", "long")
    for shown in (run("ask", "What?").stdout, run("trajectory", "show", "long").stdout):
        assert 200 < len(strip_of(shown)) <= 300
        assert "(the highest)" in shown
    for shown in (run("ask", "What?", "--full-strip").stdout, run("trajectory", "show", "long", "--full-strip").stdout):
        assert len(strip_of(shown)) >= 1000
        assert "one block per token," in shown


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_answer_is_shown_again_by_its_session(run: Run, router: FakeRouter, flags: list[str]) -> None:
    first = run("ask", "What?", "--session", "one", *flags)
    again = run("ask", "--resume", "one", *flags)
    assert again.exit_code == 0, again.stderr
    assert again.stdout == first.stdout
    assert len(router.questions) == 1


def test_an_answer_is_drawn(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "answer.svg"
    run("ask", "What?", "--session", "one")
    drawn = run("ask", "--resume", "one", "--svg", str(picture))
    assert drawn.exit_code == 0, drawn.stderr
    told = "".join(ElementTree.parse(picture).getroot().itertext()).replace("\xa0", " ")
    assert "w5 w6 w7" in told
    assert "60 (SLM 40, LLM 20)" in told
    for flags, why in ((["--json"], "with --json nothing is drawn"), ([], "there is no folder")):
        refused = run("ask", "x", "--svg", str(tmp_path / "none" / "x.svg"), *flags)
        assert refused.exit_code == 2
        assert why in refused.stderr


def test_resume_takes_nothing_of_a_question(run: Run, router: FakeRouter) -> None:
    for flags, word in ((["What?"], "question"), (["--tau", "0.02"], "--tau"), (["--session", "x"], "--session")):
        result = run("ask", "--resume", "one", *flags)
        assert result.exit_code == 2
        assert f"--resume: {word} goes with a new question." in result.stderr
    assert router.questions == []


def test_an_error_after_which_one_can_go_on_names_the_command(run: Run, router: FakeRouter) -> None:
    def away(number: int) -> None:
        if number == 5:
            raise RstitchError(
                grpc.StatusCode.CANCELLED, "CANCELLED", "it ended.", remedy="Start it again, then re-attach with "
                "resume_from.", metadata={"session_id": "one", "resume_from": "9"},
            )  # fmt: skip

    router.before_event = away
    result = run("ask", "What?", "--session", "one")
    assert result.exit_code == 1
    command = f"rstitch ask --resume one --router {router.address}"
    assert result.stderr == f"error: it ended. Start it again, then run `{command}`.\n"
    assert "w64 " in run(*shlex.split(command)[1:]).stdout


def test_the_command_is_named_where_the_connection_is_lost_and_where_the_answer_runs_already(
    run: Run, router: FakeRouter
) -> None:
    def refused(number: int) -> None:
        raise RstitchError(
            grpc.StatusCode.FAILED_PRECONDITION, "SESSION_RUNNING", "an answer is being written in session one.",
            remedy="Re-attach to it with resume_from, or wait.", metadata={"session_id": "one"},
        )  # fmt: skip

    router.before_event = refused
    assert f"Run `rstitch ask --resume one --router {router.address}`, or wait." in run("ask", "x").stderr

    def lost(number: int) -> None:
        if number > 4:
            raise RstitchError(grpc.StatusCode.DATA_LOSS, "", "lost")

    router.before_event = lost
    told = run("ask", "What?", "--session", "two", "--router", router.address).stderr
    assert f"`rstitch ask --resume two --router {router.address}` goes on" in told


@pytest.mark.parametrize(
    ("workers", "ready", "silent", "told"),
    [
        (
            False,
            True,
            True,
            "waiting for the SLM worker (no answer) and the LLM worker (no answer); it goes on by itself",
        ),
        (
            True,
            True,
            True,
            "waiting for the SLM worker (no answer) and the LLM worker (no answer); it goes on by itself",
        ),
        (True, False, True, "waiting for the SLM worker (no answer)"),
        (True, True, False, "waiting for a token; router and workers are ready, 0 answers"),
    ],
)
def test_what_an_answer_waits_for_is_said(
    run: Run, router: FakeRouter, monkeypatch: pytest.MonkeyPatch, workers: bool, ready: bool, silent: bool, told: str
) -> None:
    for bound in ("_AFTER_S", "_AWAY_AFTER_S"):
        monkeypatch.setattr(f"rstitch.cli.waiting.{bound}", 0.0)
    monkeypatch.setattr("rstitch.cli.waiting._LOOK_S", 0.01)
    router.workers_ready, router.ready, router.workers_silent = workers, ready, silent

    def wait(number: int) -> None:
        # What was found out first is said before it is found out again.
        while number == 9 and [name for name, _ in router.calls].count("GetStatus") < 2:
            time.sleep(0.01)

    router.before_event = wait
    result = run("ask", "What?", "--json")
    assert result.exit_code == 0
    assert f"… {told}" in result.stderr
    assert lines(result.stdout)[-1]["event"] == "finished"


def test_ask_json_is_one_event_a_line(run: Run, router: FakeRouter) -> None:
    result = run("ask", "What?", "--json")
    events = lines(result.stdout)
    assert len(events) == len(router.answer) + 1
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "finished"
    switch = next(event for event in events if event["event"] == "switch")
    assert (switch["from"], switch["to"], switch["reason"]) == ("slm", "llm", "entropy_above")
    chunk = next(event for event in events if event["event"] == "chunk")
    assert (chunk["model"], chunk["position"]) == ("slm", 5)


def test_every_flag_of_ask_arrives(run: Run, router: FakeRouter) -> None:
    # fmt: off
    result = run("ask", "-", "--tau", "0.1", "--tau-return", "0.05", "--temperature", "0.7", "--top-p", "0.9",
                 "--top-k", "5", "--seed", "3", "--max-new-tokens", "9", "--stop", "a", "--stop", "b",
                 "--session", "s1", "--system", "Be brief.", "--guard", "off",
                "--stop-token-id", "7", "--stop-token-id", "8", "--template-arg", "enable_thinking=false",
                "--min-p", "0.05", "--logit-bias", "17=-2.5", "--logit-bias", "4=100", "--presence-penalty", "0.5",
                "--frequency-penalty", "-0.25", "--repetition-penalty", "1.5",
                "--template-arg", "n=3", "--template-arg", "effort=low", "--template-arg", "empty=", input="How many?")
    # fmt: on
    assert result.exit_code == 0, result.stderr
    (question,) = router.questions
    assert [(m.role, m.content) for m in question.chat.messages] == [("system", "Be brief."), ("user", "How many?")]
    assert (question.policy.threshold.tau, question.policy.threshold.tau_return) == (0.1, 0.05)
    s = question.sampling
    assert (s.temperature, s.top_p, s.top_k, s.seed, s.min_p) == (0.7, 0.9, 5, 3, 0.05)
    assert (s.presence_penalty, s.frequency_penalty, s.repetition_penalty) == (0.5, -0.25, 1.5)
    assert dict(s.logit_bias) == {17: -2.5, 4: 100}
    assert (question.max_new_tokens, list(question.stop), question.session_id) == (9, ["a", "b"], "s1")
    assert question.guard == router_pb2.GUARD_OFF
    assert list(question.stop_token_ids) == [7, 8]
    kwargs = MessageToDict(question.chat.chat_template_kwargs)
    assert kwargs == {"enable_thinking": False, "n": 3, "effort": "low", "empty": ""}


def test_ask_can_say_all_of_sampling() -> None:
    """Each field that a client has is a flag of the same name."""
    told = {option for parameter in get_command(app).commands["ask"].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {f"--{field.name.replace('_', '-')}" for field in fields(Sampling)} <= told


@pytest.mark.parametrize("word", ["17", "=2", "a=1", "17=b", "-1=2", "4294967296=1"])
def test_a_bias_that_is_none_is_refused_by_its_flag(run: Run, router: FakeRouter, word: str) -> None:
    result = run("ask", "What?", "--logit-bias", word)
    assert result.exit_code == 2, result.stderr
    assert "logit" in result.stderr
    assert not router.questions
    twice = run("ask", "What?", "--logit-bias", "17=1", "--logit-bias", "17=2")
    assert "--logit-bias" in twice.stderr


def test_an_answer_that_the_guard_took_says_why(run: Run, router: FakeRouter) -> None:
    finished = router.answer[-1].finished
    finished.policy.llm_only.SetInParent()
    finished.guard_reason = "routed answers took 1.30x as long."
    assert "the LLM alone: routed answers took 1.30x as long." in run("ask", "What?").stdout
    event = lines(run("ask", "What?", "--json").stdout)[-1]
    assert event["policy"] == "llm_only"
    assert event["guard_reason"] == finished.guard_reason


@pytest.mark.parametrize("flags", [[], ["--policy", "threshold"]])
def test_the_routers_tau_is_the_default(run: Run, router: FakeRouter, flags: list[str]) -> None:
    assert run("ask", "What?", *flags).exit_code == 0
    assert not router.questions[0].HasField("policy")


def test_raw_text_goes_without_a_template(run: Run, router: FakeRouter) -> None:
    run("ask", "Once upon", "--raw")
    assert router.questions[0].text == "Once upon"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("llm_only", "llm_only"),
        ("slm-only", "slm_only"),
        ("random:slm_probability=0.5", "random"),
        ("speculative:draft_tokens=4", "speculative"),
        ("profile:fast", "profile"),
        ("learned:tiny", "learned"),
    ],
)
def test_policies_by_name(run: Run, router: FakeRouter, text: str, kind: str) -> None:
    assert run("ask", "What?", "--policy", text).exit_code == 0
    assert router.questions[0].policy.WhichOneof("kind") == kind


def test_a_policy_in_one_word(run: Run, router: FakeRouter) -> None:
    word = "threshold:tau=0.1,signal=entropy_window,window=4+early_exit:threshold=0.9,boundaries=.\\n|Wait"
    assert run("ask", "What?", "--policy", f"{word}+budget:llm_tokens=3,stop=true").exit_code == 0
    question = router.questions[0]
    assert (question.policy.threshold.signal, question.policy.threshold.window) == (4, 4)
    assert list(question.early_exit.boundaries) == [".\n", "Wait"]
    assert (question.budget.llm_tokens, question.budget.then) == (3, 2)
    assert not question.budget.HasField("max_switches")


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize("pressed_at", [1, 20])  # before the router has said a word, and amid the answer
def test_ctrl_c_cancels_the_answer(run: Run, router: FakeRouter, json: list[str], pressed_at: int) -> None:
    def press(number: int) -> None:
        if number == pressed_at:
            signal.raise_signal(signal.SIGINT)

    router.before_event = press
    result = run("ask", "What?", "--session", "talk", "--on-disconnect", "continue", *json)
    assert result.exit_code == 130
    assert router.cancelled == ["talk"]
    assert "cancelled talk: 9 tokens are kept" in result.stderr


def test_ctrl_c_before_the_question_is_taken(run: Run, router: FakeRouter) -> None:
    def press(number: int) -> None:
        if number == 0:
            signal.raise_signal(signal.SIGINT)

    router.before_event = press
    result = run("ask", "What?", "--session", "unknown")
    assert result.exit_code == 130
    assert router.cancelled == ["unknown"]
    assert "error" not in result.stderr
