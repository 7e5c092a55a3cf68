"""The commands that talk to a router: what they print, as text and as JSON, and their exit codes."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from rstitch.errors import RstitchError
from rstitch.v1 import common_pb2, router_pb2
from tests.cli.conftest import Run
from tests.support.fake_router import FakeRouter, script
from tests.support.toy import unstitchable_files


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
    ("workers", "ready", "told"),
    [
        (False, True, "waiting for the SLM worker (no answer) and the LLM worker (no answer); it goes on by itself"),
        (True, False, "waiting for the SLM worker (no answer)"),
        (True, True, "waiting for a token; router and workers are ready, 0 answers"),
    ],
)
def test_what_an_answer_waits_for_is_said(
    run: Run, router: FakeRouter, monkeypatch: pytest.MonkeyPatch, workers: bool, ready: bool, told: str
) -> None:
    monkeypatch.setattr("rstitch.cli.waiting._AFTER_S", 0.0)
    monkeypatch.setattr("rstitch.cli.waiting._LOOK_S", 0.01)
    router.workers_ready, router.ready = workers, ready

    def wait(number: int) -> None:
        # What was found out first is said before it is found out again.
        while number == 9 and [name for name, _ in router.calls].count("GetStatus") < 2:
            time.sleep(0.01)

    router.before_event = wait
    result = run("ask", "What?", "--json")
    assert result.exit_code == 0
    assert f"… {told}" in result.stderr
    assert lines(result.stdout)[-1]["event"] == "finished"


def test_ask_json_tells_of_each_token_what_is_asked_for(run: Run, router: FakeRouter) -> None:
    chunks = [
        event for event in lines(run("ask", "What?", "--json", "--top-logprobs", "1").stdout) if "tokens" in event
    ]
    assert router.questions[-1].details.top_logprobs == 1
    details = [detail for chunk in chunks for detail in chunk["details"]]
    assert len(details) == sum(len(chunk["tokens"]) for chunk in chunks)
    # Half of a character is shown by its byte.
    assert details[0] == {
        "logprob": None,
        "text": "w5 ",
        "alternatives": [{"token": 105, "logprob": -1, "text": "\\xf0", "bytes": [240]}],
    }
    plain = run("ask", "What?", "--top-logprobs", "1")
    assert plain.exit_code == 2
    assert "--json" in plain.stderr


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
                "--template-arg", "n=3", "--template-arg", "effort=low", "--template-arg", "empty=", input="How many?")
    # fmt: on
    assert result.exit_code == 0, result.stderr
    (question,) = router.questions
    assert [(m.role, m.content) for m in question.chat.messages] == [("system", "Be brief."), ("user", "How many?")]
    assert (question.policy.threshold.tau, question.policy.threshold.tau_return) == (0.1, 0.05)
    s = question.sampling
    assert (s.temperature, s.top_p, s.top_k, s.seed) == (0.7, 0.9, 5, 3)
    assert (question.max_new_tokens, list(question.stop), question.session_id) == (9, ["a", "b"], "s1")
    assert question.guard == router_pb2.GUARD_OFF
    assert list(question.stop_token_ids) == [7, 8]
    kwargs = MessageToDict(question.chat.chat_template_kwargs)
    assert kwargs == {"enable_thinking": False, "n": 3, "effort": "low", "empty": ""}


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


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["ask", "refuse", "--raw"], "Give a number in [-1, 2]."),
        (["ask", "x", "--policy", "best"], "Choose one of threshold, learned"),
        (["ask", "x", "--policy", "random"], "slm_probability is missing"),
        (["ask", "x", "--policy", "threshold:tau=a"], "'a' is no such value"),
        (["ask", "x", "--policy", "llm_only:tau=1"], "llm_only takes nothing"),
        (["ask", "x", "--policy", "slm_only", "--tau", "0.1"], "has none here"),
        (["ask", "x", "--tau-return", "0.1"], "--tau-return goes with it."),
        (["ask"], "question: there is none."),
        (["ask", "--resume", "nobody"], "there is no session nobody."),
        (["ask", "x", "--max-new-tokens", "-1"], "max_new_tokens"),
        (["ask", "x", "--template-arg", "a"], "Write NAME=VALUE."),
        (["ask", "x", "--raw", "--template-arg", "a=1"], "Give chat, not text or tokens."),
        (["ask", "x", "--guard", "maybe"], "Write --guard on or --guard off."),
        (["ask", "x", "--on-disconnect", "maybe"], "Give 'continue' or 'stop'"),
        (["trajectory", "show", "nobody"], "there is no session nobody."),
        (["health", "--router", "no address"], "HOST:PORT"),
        (["up", "--device", "tpu"], "--device: 'tpu' is no device. Write cpu, or cuda:N."),
        (["up", "--dtype", "int3"], "Choose one of auto, float32, bfloat16, float64."),
        (["up", "--slm-model", "./nowhere"], "--slm-model: ./nowhere is no folder, and no hub id."),
        (["up", "--llm-model", str(Path(__file__).parent)], "holds no model (no config.json)."),
        (["up", "--slm-arg=--listen=127.0.0.1:1"], "--slm-arg: --listen is set by the stack."),
        (["up", "--router-arg=--slm=127.0.0.1:1"], "--router-arg: --slm is set by the stack."),
        (["up", "--llm-arg", "kv-tokens=9"], "Write --llm-arg=--NAME=VALUE."),
    ],
)
def test_bad_input_is_one_line_with_a_remedy_and_code_2(run: Run, args: list[str], says: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert result.stdout == ""


@pytest.mark.parametrize("args", [["ask", "x"], ["health"], ["trajectory", "ls"], ["trajectory", "rm", "x"]])
def test_no_router_is_one_line_with_a_remedy_and_code_1(run: Run, args: list[str]) -> None:
    result = run(*args, "--router", "127.0.0.1:1")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "rstitch up" in line


def test_trajectories_are_listed_shown_and_removed(run: Run) -> None:
    for name in ("one", "two", "three"):
        run("ask", "What?", "--session", name)
    listed = run("trajectory", "ls", "-n", "2").stdout
    assert "one" in listed
    assert "two" not in listed
    assert [t["session_id"] for t in lines(run("trajectory", "ls", "--json").stdout)] == ["one", "three", "two"]
    shown = run("trajectory", "show", "one")
    assert "What?" in shown.stdout
    assert "w5 w6" in shown.stdout
    assert "threshold:tau=0.02" in shown.stdout
    whole = json.loads(run("trajectory", "show", "one", "--json").stdout)
    assert sum(len(segment["tokens"]) for segment in whole["segments"]) == whole["length"] == 65
    assert run("trajectory", "rm", "one", "two").exit_code == 0
    assert [t["session_id"] for t in lines(run("trajectory", "ls", "--json").stdout)] == ["three"]


def test_answers_are_cancelled(run: Run, router: FakeRouter) -> None:
    result = run("trajectory", "cancel", "one", "over")
    assert result.stdout == "cancelled one: 9 tokens are kept\nover is not being written: finished\n"
    assert router.cancelled == ["one", "over"]


def pressing(at: int) -> Callable[[int], None]:
    """Ctrl-C before the event of that number, once the command waits for it: anywhere else Python may keep it."""
    command = threading.main_thread().ident

    def waits() -> bool:
        frame = sys._current_frames().get(command or 0)
        return frame is not None and frame.f_code.co_name == "wait"

    def press(number: int) -> None:
        if number == at:
            while not waits():
                time.sleep(0.001)
            signal.raise_signal(signal.SIGINT)

    return press


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize("pressed_at", [1, 20])  # before the router has said a word, and amid the answer
def test_ctrl_c_cancels_the_answer(run: Run, router: FakeRouter, json: list[str], pressed_at: int) -> None:
    router.before_event = pressing(pressed_at)
    result = run("ask", "What?", "--session", "talk", "--on-disconnect", "continue", *json)
    assert result.exit_code == 130
    assert router.cancelled == ["talk"]
    assert "cancelled talk: 9 tokens are kept" in result.stderr


def test_ctrl_c_before_the_question_is_taken(run: Run, router: FakeRouter) -> None:
    router.before_event = pressing(0)
    result = run("ask", "What?", "--session", "unknown")
    assert result.exit_code == 130
    assert router.cancelled == ["unknown"]
    assert "error" not in result.stderr


@pytest.mark.parametrize("width", ["40", "80"])
def test_ids_are_never_cut(run: Run, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    name = "0123456789abcdef" * 4
    asked = run("ask", "What?", "--session", name).stdout
    assert f"session {name}" in asked.splitlines()
    (row,) = run("trajectory", "ls").stdout.splitlines()[1:]
    assert row.split()[0] == name
    assert "threshold:tau=0.02" in row
    assert run("trajectory", "show", row.split()[0]).stdout.startswith(f"session {name}: ")


def test_no_trajectories(run: Run) -> None:
    assert "no trajectories yet" in run("trajectory", "ls").stdout


def test_health_says_who_is_not_ready(run: Run, router: FakeRouter) -> None:
    result = run("health")
    assert result.exit_code == 0
    assert "SLM worker" in result.stdout
    assert "guard off, new answers routed: routed answers took 0.40x" in result.stdout
    assert "vocabularies: 3 text tokens under the same spelling; masked: SLM 2 [user]" in result.stdout
    router.ready = False
    result = run("health")
    assert result.exit_code == 1
    assert "waiting for the SLM worker" in result.stdout
    assert json.loads(run("health", "--json").stdout)["ready"] is False


def test_health_with_a_worker_away_is_code_1(run: Run, router: FakeRouter) -> None:
    router.workers_ready = False
    result = run("health")
    assert "ready" in result.stdout.splitlines()[0]
    assert "no answer" in result.stdout
    assert result.exit_code == run("health", "--json").exit_code == 1


@pytest.mark.parametrize(("serving", "code"), [(True, 0), (False, 1)])
def test_health_of_an_address_is_its_grpc_health(run: Run, router: FakeRouter, serving: bool, code: int) -> None:
    router.set_health(serving)
    result = run("health", "--address", router.address)
    assert (result.exit_code, result.stdout.strip()) == (code, "SERVING" if serving else "NOT_SERVING")
    assert run("health", "--address", router.address, "--service", "x.Y").stdout.strip() == "SERVICE_UNKNOWN"


def test_health_of_nobody(run: Run) -> None:
    result = run("health", "--address", "127.0.0.1:1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["health"].startswith("UNREACHABLE")


def test_version(run: Run) -> None:
    assert run("version").stdout == run("--version").stdout
    assert run("version").stdout.startswith("rstitch ")
    assert {"rstitch", "python", "grpcio"} <= set(json.loads(run("version", "--json").stdout))


def test_usage_errors_have_code_2(run: Run) -> None:
    assert run("ask").exit_code == 2
    assert run("ask", "x", "--temperature", "hot").exit_code == 2


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_up_names_why_two_models_do_not_fit_within_seconds(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(__file__).parents[2] / "models" / "tiny-slm-xs", other)
    (other / "tokenizer.json").write_bytes(unstitchable_files().data)
    result = run("up", "--slm-model", str(other), "--port", "0", "--http-listen", "127.0.0.1:0", "--timeout", "110")
    assert result.exit_code == 1
    assert "the two models cannot be stitched: " in result.stderr.splitlines()[-1]


def test_up_names_a_redis_that_does_not_answer_before_anything_is_started(run: Run) -> None:
    result = run("up", "--redis", "redis://:secret@127.0.0.1:1/0", "--port", "0", "--http-listen", "127.0.0.1:0")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: no Redis answers at redis://127.0.0.1:1/0.")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["slm worker", "router"])
def test_up_shows_the_log_of_what_cannot_start_and_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    flags = ["--port", "0", "--http-listen", "127.0.0.1:0", f"--{part.split()[0]}-arg=--no-such-flag=7"]
    result = run("up", *flags)
    assert result.exit_code == 1
    # The server that processes are forked from, where this test is the first to need it, has a folder until it ends.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("pymp-")] == []
    *_, why, error = result.stderr.splitlines()
    assert error == f"error: the {part} ended with code 2."
    assert why.endswith("error: unrecognized arguments: --no-such-flag=7")


def test_a_renamed_command_keeps_its_old_word_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstitch.cli.tools._exit_code_of", lambda arguments, access: print(*arguments[2:]) or 0)
    assert run("latency", "fit").stdout == run("profile", "fit").stdout == "-m evals.latency fit\n"
    assert "rstitch profile is now rstitch latency" in run("profile").stderr
    listed = run("--help").stdout
    assert " latency " in listed
    assert " profile " not in listed


def test_bench_hands_its_arguments_on_and_its_exit_code_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "evals" / "bench"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    told = tmp_path / "told"
    (package / "__main__.py").write_text(f"import sys; open({str(told)!r}, 'w').write(repr(sys.argv[1:])); sys.exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = run("bench", "switch", "--n", "3", "--help", "--router-arg=--tau=1")
    assert result.exit_code == 7, result.stderr
    assert told.read_text() == "['switch', '--n', '3', '--help', '--router-arg=--tau=1']"


def test_bench_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("evals", "torch") else name)
    result = run("bench", "run")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "needs evals and torch" in line
    assert "after `make setup`" in line
