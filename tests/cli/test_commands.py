"""The commands that talk to a router: what they print, as text and as JSON, and their exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.fake_router import FakeRouter
from tests.support.toy import unstitchable_files


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


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
        (
            ["ask", "x", "--max-new-tokens", "-1"],
            "Value out of range: -1. Give what its type takes;",
        ),
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
    assert shown.stdout.splitlines()[-1] == f"trace {'ab' * 16}"
    whole = json.loads(run("trajectory", "show", "one", "--json").stdout)
    assert sum(len(segment["tokens"]) for segment in whole["segments"]) == whole["length"] == 65
    assert whole["trace_id"] == "ab" * 16
    assert run("trajectory", "rm", "one", "two").exit_code == 0
    assert [t["session_id"] for t in lines(run("trajectory", "ls", "--json").stdout)] == ["three"]


def test_answers_are_cancelled(run: Run, router: FakeRouter) -> None:
    result = run("trajectory", "cancel", "one", "over")
    assert result.stdout == "cancelled one: 9 tokens are kept\nover is not being written: finished\n"
    assert router.cancelled == ["one", "over"]


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


def test_health_names_a_worker_that_is_silent_at_the_moment(run: Run, router: FakeRouter) -> None:
    router.workers_silent = True
    result = run("health")
    assert "no answer" in result.stdout
    assert result.exit_code == 0, "it may only be slow"


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
