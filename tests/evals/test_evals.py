"""What measures must itself be right: intervals, the bare loop, the report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evals.algorithm import bare
from evals.algorithm.reference import Threshold, stitch
from evals.algorithm.uncached_model import UncachedModel
from evals.figures import report
from evals.figures.provenance import provenance
from evals.figures.statistics import paired_difference, wilson
from tests.support.engines import generate
from tests.support.pairs import CONFIGS, STOP_TOKEN, VOCAB_SIZE, make_model

PROMPT = [7, 8, 9, 10, 11]


def test_wilson_interval_holds_its_own_share() -> None:
    for n in range(1, 600):
        for successes in {0, n // 3, n}:
            low, high = wilson(successes, n)
            assert low <= successes / n <= high


def test_wilson_interval_has_the_published_values() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe (1998), table I, method 3
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 20)[0] == pytest.approx(0)


def test_paired_difference_counts_each_problem_once() -> None:
    ours, theirs = [True] * 90 + [False] * 10, [True] * 80 + [False] * 20
    mean, low, high = paired_difference(ours, theirs)
    assert mean == pytest.approx(0.1)
    assert low < 0.1 < high
    assert paired_difference(ours, ours) == (0, 0, 0)


def test_the_reference_and_the_bare_loop_are_one_algorithm() -> None:
    slm, llm = make_model(CONFIGS["llama"], 1), make_model(CONFIGS["qwen2"], 2)
    for tau in (-1.0, 0.3, 0.4, 1.0):
        oracles = (UncachedModel(model, VOCAB_SIZE) for model in (slm, llm))
        reference = stitch(*oracles, PROMPT, Threshold(tau), max_new_tokens=50, stop_tokens={STOP_TOKEN})
        run = bare.stitch(slm, llm, PROMPT, tau, 50, {STOP_TOKEN}, VOCAB_SIZE)
        assert run.tokens == [token.id for token in reference.written]
        assert run.answer.num_switches == reference.num_switches
    assert run.tokens == generate(slm, PROMPT, 50)


def test_a_report_replaces_its_own_section_only(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("before\n<!-- tiny:begin -->\nold\n<!-- tiny:end -->\nafter\n")
    report.replace_section(page, "tiny", "new")
    assert page.read_text() == "before\n<!-- tiny:begin -->\nnew\n<!-- tiny:end -->\nafter\n"
    with pytest.raises(ValueError, match="other"):
        report.replace_section(page, "other", "new")


def test_provenance_names_the_command_without_where_its_copies_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "run", "--n", "4", "--json", "out.json", "--plot=a.png", "--write"])
    assert provenance()["command"].endswith(" run --n 4 --write")


def test_provenance_names_no_path_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["bench", "run", "--data", "/somewhere/questions.jsonl", "--slm", "models/tiny-slm"]
    )
    assert provenance()["command"].endswith(" run --data questions.jsonl --slm models/tiny-slm")
