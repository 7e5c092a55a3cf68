"""What is made of the records of a run: figures, tables, plots, cases that switching hurt, harmful tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.asking.record import Part, Question, Record
from evals.asking.run_file import Run, RunFile, read
from evals.checking.checker import OwnCheck
from evals.evaluation.__main__ import main
from evals.evaluation.harmful import around
from evals.evaluation.harmful_token import Search
from evals.figures import answers as figures
from evals.figures import plots
from evals.figures.families import member_of
from evals.figures.statistics import bootstrap_mean, mcnemar
from evals.latency import Decode, LatencyModel, ModelLatency, Prefill
from evals.tasks.data import Problem
from evals.tasks.task import load
from rstitch.client.types import Source
from rstitch.errors import RstitchError
from tests.support.runs import CONFIGURATION, PROVENANCE, pair_run, record, written


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


def test_no_difference_seen_is_not_no_difference() -> None:
    records = [record(system, i) for system in ("llm_only", "threshold:tau=0.02") for i in range(20)]
    alone, routed = figures.rows(Run({}, [], records))
    assert (routed["difference_low"], routed["difference_high"]) == pytest.approx((-0.161, 0.161), abs=1e-3)
    assert (alone["difference_low"], alone["difference_high"]) == (0, 0)  # beside itself


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
        ("threshold:tau=0.02+early_exit:threshold=0.95", "entropy 0.02 + early exit", 0.95),
        ("llm_only+early_exit:threshold=0.9", "LLM-only + early exit", 0.9),
        ("threshold:tau=0.01+budget:llm_tokens=20", "entropy 0.01 + budget", 20),
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
    assert "| threshold:tau=0.02 | 90.0% [69.9, 97.2] | -5.0" in " ".join(text.split())
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
    assert "rstitch latency" in capsys.readouterr().err


def test_runs_of_one_task_are_reported_together(tmp_path: Path) -> None:
    path = pair_run(tmp_path)
    more = written(tmp_path / "more.jsonl", record("slm_only", 0), record("llm_only", 0, ms=1), concurrency=16)
    merged = read([path, more])
    assert merged.systems == ["llm_only", "slm_only", "threshold:tau=0.02"]
    assert len(merged.of("llm_only")) == 20  # of the file that came first
    with pytest.raises(RstitchError, match="another task"):
        read([path, written(tmp_path / "other.jsonl", record("slm_only", 0), task="gsm8k")])


@pytest.mark.parametrize("times", [[], ["--no-times"]])
def test_plots_are_drawn(tmp_path: Path, times: list[str]) -> None:
    assert main(["plot", str(pair_run(tmp_path)), "--out", str(tmp_path / "plots"), "--name", "tiny-", *times]) == 0
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"tiny-frontier.png", "tiny-entropy.png"}


def test_a_plot_without_times_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[list[str]] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append([a.get_xlabel() for a in figure.axes]))
    command = ["plot", str(pair_run(tmp_path)), "--out", str(tmp_path)]
    assert main(command) == main([*command, "--no-times"]) == 0
    of_latency = [any("latency" in label for label in labels) for labels in drawn]
    assert of_latency == [True, False, False, False]  # each time the frontier, then the entropies
    assert main([*command, "--no-times", "--latency-model", "model.json"]) == 2
    assert "--no-times: it stands beside --latency-model" in capsys.readouterr().err


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
