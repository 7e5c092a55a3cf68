"""`rstitch eval`: a run on a real stack and how it is gone on with; what is made of records; what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.answers import OwnCheck
from evals.evaluation import figures
from evals.evaluation.__main__ import main
from evals.evaluation.data import Problem
from evals.evaluation.families import member_of
from evals.evaluation.harmful import around
from evals.evaluation.record import Part, Question, Record
from evals.evaluation.records import Run, RunFile, read
from evals.evaluation.run import systems_of
from evals.evaluation.runner import Plan, jobs
from evals.evaluation.task import load
from evals.evaluation.turns import Search
from evals.statistics import bootstrap_mean, mcnemar
from rstitch.client.sync import Client
from rstitch.client.types import Random, Source
from rstitch.errors import RstitchError
from rstitch.stack import LocalStack
from training.latency import Decode, LatencyModel, ModelLatency, Prefill

pytestmark = pytest.mark.timeout(180)

CONFIGURATION = {
    "task": "tiny", "task_digest": "1", "data": "d", "data_digest": "2", "temperature": 0.0, "top_p": 0.0, "seed": 0,
    "max_new_tokens": 400, "slm": "tiny-slm", "llm": "tiny-llm", "concurrency": 1, "order": "interleaved",
}  # fmt: skip
PROVENANCE = {"commit": "c", "machine": "m", "python": "3", "command": "x", "day": "d"}


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack(threads=1) as running:
        yield running


def record(system: str, problem: int, *, correct: bool = True, slm: int = 8, llm: int = 2, ms: float = 10) -> Record:
    usage = {
        "num_prompt_tokens": 5, "num_slm_tokens": slm, "num_llm_tokens": llm, "num_switches": 2,
        "total_time_us": int(1000 * ms), "time_to_first_token_us": 1000,
    }  # fmt: skip
    parts = tuple(part for part in (Part("slm", slm, "a" * slm), Part("llm", llm, "b" * llm)) if part.num_tokens)
    tokens = tuple(range(slm + llm))
    return Record(
        system, problem, str(problem), 0, 0, "s", "", correct, usage=usage, parts=parts, tokens=tokens,
        entropies=(0.01,) * len(tokens),
    )  # fmt: skip


def written(path: Path, *records: Record, **changed: Any) -> Path:
    with RunFile(path, CONFIGURATION | changed, PROVENANCE) as file:
        for each in records:
            file.append(each)
    return path


def pair_run(folder: Path) -> Path:
    """Twenty problems: LLM-only solves all but the last, the threshold all but the first two, four times as fast."""
    llm = [record("llm_only", i, correct=i != 19, slm=0, llm=20, ms=40) for i in range(20)]
    routed = [record("threshold:tau=0.02", i, correct=i > 1, ms=10) for i in range(20)]
    return written(folder / "run.jsonl", *llm, *routed)


class TestOnARealStack:
    """One run of two systems, gone on with, reported, drawn."""

    def run(self, stack: LocalStack, folder: Path, *flags: str) -> int:
        # fmt: off
        return main(["run", "--task", "tiny", "--router", stack.router_address, "--out", str(folder / "run.jsonl"),
                     "--systems", "llm_only", "threshold:tau=0.02", *flags])
        # fmt: on

    def test_a_run_is_one_line_per_answer_and_goes_on(
        self, stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "run.jsonl"
        assert self.run(stack, tmp_path, "--n", "2", "--concurrency", "2") == 0
        first = path.read_text()
        found = read([path])
        assert {each.key for each in found.records} == {(s, p, 0) for s in found.systems for p in range(2)}
        for each in found.records:
            assert (
                sum(part.num_tokens for part in each.parts)
                == len(each.tokens)
                == len(each.entropies)
                == each.num_tokens
            )
            with Client(stack.router_address) as client:
                trajectory = client.trajectory(each.session_id)
            assert trajectory.tokens[each.count("prompt_tokens") :] == each.tokens
            kinds = [(s.source.value, len(s.tokens)) for s in trajectory.segments if s.source.value != "prompt"]
            assert kinds == [(part.model, part.num_tokens) for part in each.parts]
        path.write_text(first + '{"system": "llm_on')  # it was killed while writing
        assert self.run(stack, tmp_path, "--n", "4", "--concurrency", "2") == 0
        assert "4 of 8 answers are there already" in capsys.readouterr().out
        again = path.read_text()
        assert again.startswith(first)
        assert len(again.splitlines()) == len(first.splitlines()) + 1 + 2 + 4
        assert len(read([path]).records) == 8
        assert self.run(stack, tmp_path, "--n", "4", "--concurrency", "2") == 0
        assert len(read([path]).records) == 8

    def test_a_file_of_another_configuration_is_refused_by_name(
        self, stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(stack, tmp_path, "--n", "1", "--max-new-tokens", "4", "--json") == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [(row["system"], row["n"], row["cut_off"]) for row in rows] == [
            ("llm_only", 1, 1),
            ("threshold:tau=0.02", 1, 1),
        ]
        assert self.run(stack, tmp_path, "--n", "1", "--max-new-tokens", "5") == 2
        assert "run with max_new_tokens 4, not 5" in capsys.readouterr().err

    def test_samples_have_seeds_and_a_system_that_is_refused_has_a_name(
        self, stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ("--n", "1", "--samples", "2", "--temperature", "1", "--seed", "7", "--max-new-tokens", "12")
        assert self.run(stack, tmp_path, *flags) == 0
        llm = read([tmp_path / "run.jsonl"]).of("llm_only")
        assert [(each.sample, each.seed) for each in llm] == [(0, 7), (1, 8)]
        assert self.run(stack, tmp_path, *flags, "--systems", "threshold:tau=7") == 2
        assert "threshold:tau=7:" in capsys.readouterr().err


def test_every_system_is_first_as_often_as_last() -> None:
    systems = systems_of(["llm_only", "slm_only", "threshold:tau=0.1"])
    problems = [Problem(index, str(index), "", "", {}) for index in range(3)]
    order = [(job.problem.index, job.system.name) for job in jobs(systems, problems, Plan(1))]
    assert [name for _, name in order[::3]] == ["llm_only", "slm_only", "threshold:tau=0.1"]
    assert [index for index, _ in order] == [0] * 3 + [1] * 3 + [2] * 3
    blocks = [job.system.name for job in jobs(systems, problems, Plan(1, order="blocks"))]
    assert blocks == ["llm_only"] * 3 + ["slm_only"] * 3 + ["threshold:tau=0.1"] * 3


def test_systems_are_specs_once_each() -> None:
    words = ["random:slm_probability=0.90", "random:slm_probability=0.9", "profile:fast"]
    systems = systems_of(words)
    assert [system.name for system in systems] == ["random:slm_probability=0.9", "profile:name=fast"]
    assert systems[0].spec.policy == Random(0.9)


def test_figures_stand_beside_llm_only(tmp_path: Path) -> None:
    llm, routed = figures.rows(read([pair_run(tmp_path)]))
    assert llm["system"] == "llm_only"
    assert (routed["accuracy"], routed["pairs"]) == (0.9, 20)
    assert routed["difference"] == pytest.approx(-0.05)
    assert routed["difference_low"] < -0.05 < routed["difference_high"]
    assert (routed["only_this"], routed["only_baseline"], routed["mcnemar_p"]) == (1, 2, 1.0)
    assert (llm["same_tokens"], routed["same_tokens"]) == (1, 0)
    assert (routed["llm_share"], routed["tokens"], routed["switches"]) == (0.2, 10, 2)
    assert (routed["speed_up"], routed["shorter"], routed["cheaper"]) == (4, 2, 2)


def test_samples_of_one_problem_are_not_independent() -> None:
    records = [replace(record("llm_only", i, correct=i < 5), sample=k) for i in range(10) for k in range(8)]
    (row,) = figures.rows(Run({}, [], records))
    assert (row["n"], row["problems"], row["mcnemar_p"]) == (80, 10, None)
    assert row["accuracy_high"] - row["accuracy_low"] > 0.4  # of ten problems, not of eighty


def test_an_error_counts_as_wrong() -> None:
    records = [record("llm_only", 0), Record("llm_only", 1, "1", 0, 0, error="the prompt is too long")]
    (row,) = figures.rows(Run({}, [], records))
    assert (row["accuracy"], row["errors"], row["tokens"]) == (0.5, 1, 10)


def test_tests_of_pairs_have_known_values() -> None:
    ours, theirs = [True] * 8 + [False] * 2 + [True] * 90, [False] * 8 + [True] * 2 + [True] * 90
    assert mcnemar(ours, theirs) == pytest.approx(0.109375)  # 2 * P(X <= 2), X binomial of 10 and 1/2
    assert mcnemar(ours, ours) == 1
    mean, low, high = bootstrap_mean([0.0, 1.0] * 500)
    assert mean == 0.5
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 1000**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("system", "family", "value"),
    [
        ("threshold:tau=0.02", "entropy", 0.02),
        ("threshold:tau=0.3,signal=entropy_window,window=4", "entropy window 4", 0.3),
        ("confidence:threshold=0.7", "confidence (v1)", 0.7),
        ("learned:name=tiny", "R-Stitch+ (tiny)", None),
        ("threshold:tau=0.02+early_exit:threshold=0.95", "entropy + early exit", 0.02),
        ("llm_only+early_exit:threshold=0.9", "LLM-only + early exit", 0.9),
        ("threshold:tau=0.01+budget:llm_tokens=20", "entropy + budget", 0.01),
        ("slm_only", "SLM-only", None),
        ("another", "another", None),
    ],
)
def test_a_line_of_the_frontier_is_a_family(system: str, family: str, value: float | None) -> None:
    member = member_of(system)
    assert (member.family, member.value) == (family, value)


def test_report_prints_json_markdown_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = pair_run(tmp_path), tmp_path / "page.md"
    page.write_text("a\n<!-- eval:begin -->\n<!-- eval:end -->\nb\n")
    assert main(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["configuration"]["task"] == "tiny"
    assert main(["report", str(path), "--markdown", "--write", f"{page}:eval"]) == 0
    text = page.read_text()
    assert capsys.readouterr().out.strip() in text
    assert "| threshold:tau=0.02 | 90.0% [69.9, 97.2] | -5.0" in text
    assert "at commit `c`" in text
    assert main(["report", str(path), "--write", f"{page}:other"]) == 2


def test_modelled_latency_is_that_of_algorithm_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = pair_run(tmp_path), tmp_path / "latency.json"
    slm, llm = (ModelLatency(Prefill(0, 0, 1, ms), Decode(0, ms)) for ms in (2, 10))
    LatencyModel(slm, llm).save(model)
    assert main(["report", str(path), "--json", "--latency-model", str(model)]) == 0
    alone, routed = json.loads(capsys.readouterr().out)["rows"]
    assert alone["modelled_ms"] == (5 + 10) + 19 * 10  # the prompt's five tokens put in, then 19 steps
    assert routed["modelled_ms"] == (5 + 2) + 7 * 2 + (5 + 8 + 10) + 10  # the LLM puts in all that it has not seen
    assert routed["modelled_speed_up"] == alone["modelled_ms"] / routed["modelled_ms"]
    assert main(["report", str(path), "--latency-model", str(path)]) == 2
    assert "rstitch profile" in capsys.readouterr().err


def test_runs_of_one_task_are_reported_together(tmp_path: Path) -> None:
    path = pair_run(tmp_path)
    more = written(tmp_path / "more.jsonl", record("slm_only", 0), record("llm_only", 0, ms=1), concurrency=16)
    merged = read([path, more])
    assert merged.systems == ["llm_only", "slm_only", "threshold:tau=0.02"]
    assert len(merged.of("llm_only")) == 20  # of the file that came first
    with pytest.raises(RstitchError, match="another task"):
        read([path, written(tmp_path / "other.jsonl", record("slm_only", 0), task="gsm8k")])


def test_plots_are_drawn(tmp_path: Path) -> None:
    assert main(["plot", str(pair_run(tmp_path)), "--out", str(tmp_path / "plots"), "--name", "tiny-"]) == 0
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"tiny-frontier.png", "tiny-entropy.png"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["run", "--task", "gsm9k"], "there is no task 'gsm9k'"),
        (["run", "--task", "tiny", "--systems", "oracle"], "there is no policy 'oracle'"),
        (["run", "--task", "tiny", "--systems", "threshold:tua=1"], "tua=1"),
        (["run", "--task", "tiny", "--samples", "0"], "not a whole number above 0"),
        (["run", "--task", "tiny", "--concurrency", "0"], "not a whole number above 0"),
        (["run", "--task", "tiny", "--n", "0"], "not a whole number above 0"),
        (["run", "--task", "tiny", "--samples", "2"], "--samples: greedy answers are all the same"),
        (["run", "--task", "tiny", "--temperature", "-1"], "out of range"),
        (["run", "--task", "gsm8k", "--recommended", "--temperature", "1"], "--recommended"),
        (["run", "--task", "gsm8k", "--data", "/nowhere.jsonl"], "/nowhere.jsonl: No such file"),
        (["report", "/nowhere.jsonl"], "No such file"),
        (["report", __file__], "line 1: this is no run of an evaluation"),
        (["plot", "/nowhere.jsonl", "--out", "/tmp"], "No such file"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(flags)
    except SystemExit as stopped:  # argparse
        code = int(stopped.code or 0)
    assert code == 2
    assert said in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_a_file_being_written_is_not_written_by_another(tmp_path: Path) -> None:
    with (
        RunFile(tmp_path / "run.jsonl", CONFIGURATION, PROVENANCE),
        pytest.raises(RstitchError, match="being written by another run"),
    ):
        RunFile(tmp_path / "run.jsonl", CONFIGURATION, PROVENANCE)


def test_the_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "gsm8k" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    assert {task["name"] for task in json.loads(capsys.readouterr().out)} >= {"tiny", "aime25", "mbpp"}


def hurt_run(folder: Path) -> Path:
    """LLM-only and SLM-only solve both; the threshold loses the second, the coin both."""
    stitched = (Part("slm", 2, "4+4="), Part("llm", 1, "<9>", "entropy_above", 0.1), Part("slm", 1, ".\n\n"))
    lost = replace(record("threshold:tau=0.1", 1, correct=False), parts=stitched, tokens=(1, 2, 3, 4))
    coin = [replace(record("random:slm_probability=0.5", i, correct=False)) for i in range(2)]
    alone = [record("slm_only", 0, correct=False), record("slm_only", 1)]
    llm = [record("llm_only", i, slm=0) for i in range(2)]
    right = record("threshold:tau=0.1", 0)
    path = folder / "run.jsonl"
    with RunFile(path, CONFIGURATION, PROVENANCE) as file:
        file.ask(Question(i, f"p{i}", f"What is {i} < 4?", "8") for i in range(2))
        for each in (*llm, *alone, right, lost, *coin):
            file.append(each)
    return path


def test_where_switching_hurt_the_worst_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- hurt:begin -->\n<!-- hurt:end -->\n")
    path = hurt_run(tmp_path)
    assert main(["hurt", str(path), "--write", f"{page}:hurt", "--out", str(tmp_path / "hurt.svg")]) == 0
    shown = capsys.readouterr().out
    assert "Of 2 problems that LLM-only solves, 2 are lost" in shown
    assert "1 of these the SLM alone solves" in " ".join(shown.split())
    assert shown.index("1. problem p1") < shown.index("2. problem p0")
    assert "4+4=⟨<9>⟩." in hurt_section(path, "threshold:tau=0.1", capsys)
    text = page.read_text()
    assert "What is 1 &lt; 4?" in text
    assert (tmp_path / "hurt.svg").read_text().startswith("<svg")
    assert main(["hurt", str(path), "--out", "hurt.pdf"]) == 2
    assert main(["hurt", str(path), "--systems", "threshold:tau=9"]) == 2


def hurt_section(path: Path, system: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["hurt", str(path), "--systems", system]) == 0
    return capsys.readouterr().out


class Continued:
    """A router whose LLM ends right only while a prefix holds none of the harmful tokens; counts what it is asked."""

    def __init__(self, harmful: set[int]) -> None:
        self.harmful = harmful
        self.num_asked = 0
        self._texts: dict[str, str] = {}

    async def answer(self, *, tokens: list[int] | None = None, **_: object) -> Any:
        self.num_asked += 1
        wrong = tokens is not None and not self.harmful.isdisjoint(tokens)
        session_id = str(self.num_asked)
        self._texts[session_id] = "prompt wrong" if wrong else "prompt right"
        return SimpleNamespace(session_id=session_id)

    async def trajectory(self, session_id: str) -> Any:
        prompt = SimpleNamespace(source=Source.PROMPT, tokens=(900, 901), text="prompt ")
        return SimpleNamespace(segments=(prompt,), text=self._texts[session_id])


async def turn_of(harmful: set[int], answer: Record, scan: bool = False) -> tuple[str, int]:
    check = OwnCheck(lambda text, _: text == "right")
    search = Search(Continued(harmful), load("tiny"), check, 400)  # type: ignore[arg-type]
    turn = await search.turn(Problem(0, "0", "", "", {}), answer, scan)
    return turn.verdict, turn.index


@pytest.mark.parametrize("scan", [False, True])
async def test_the_first_harmful_token_is_found(scan: bool) -> None:
    answer = replace(record("slm_only", 0, correct=False, slm=40, llm=0), finish="stop")
    for index in (0, 1, 17, 38):
        assert await turn_of({index}, answer, scan) == ("found", index)
    assert await turn_of({39}, answer, scan) == ("at the end", -1)  # the token that ended it cannot be gone on from
    assert await turn_of({900}, answer, scan) == ("never right", -1)


async def test_what_the_llm_spoilt_is_no_fault_of_the_slm() -> None:
    parts = (Part("slm", 5, ""), Part("llm", 3, ""), Part("slm", 5, ""))
    answer = replace(record("threshold:tau=0.1", 0, correct=False, slm=10, llm=3), parts=parts)
    assert await turn_of({6}, answer) == ("by the LLM", 8)
    assert await turn_of({8}, answer) == ("found", 8)


def test_the_entropy_around_a_token_is_a_mean_over_answers() -> None:
    one = replace(record("slm_only", 0, slm=30, llm=0), entropies=tuple(0.01 * i for i in range(30)))
    means, lows, highs = around([one, one], [[15], [20]])
    assert len(means) == 21
    assert means[10] == pytest.approx(0.175)
    assert (lows[10], highs[10]) == (pytest.approx(0.15), pytest.approx(0.2))
    assert means[20] == pytest.approx(0.25)  # the second has no token there
