"""The page of results: its steps are commands that exist, its verdicts follow the rows."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evals.results import claims
from evals.results.claims import table
from evals.results.rules import HOLDS, IN_PART, NOT, UNTESTED, Runs
from evals.results.steps import ENTROPY, FRONTIER, LATENCY, LEARNED, PROGRAMS, steps
from rstitch.client.specs import parse, text_of

ROOT = Path(__file__).parents[2]


def row(system: str, **values: Any) -> dict[str, Any]:
    usual = {
        "system": system, "n": 1000, "accuracy": 0.98, "accuracy_low": 0.97, "accuracy_high": 0.99, "difference": 0.0,
        "difference_low": -0.005, "difference_high": 0.005, "latency_ms": 100.0, "llm_share": 0.05, "speed_up": 4.0,
        "speed_up_low": 3.9, "speed_up_high": 4.1, "shorter": 2.0, "cheaper": 2.0, "only_this": 0, "only_baseline": 0,
        "accepted_share": 0.5, "exited_early": 3, "same_tokens": 0.5, "mcnemar_p": 1.0,
    }  # fmt: skip
    return usual | values


def verdict(claim: str, runs: Runs) -> str:
    line = next(line for line in table(runs).splitlines() if claim in line)
    return line.split("|")[2].strip()


def runs(**changes: dict[str, Any]) -> Runs:
    """Rows of every system, all alike but for the changes, by system."""
    return Runs(*(
        {name: row(name, **changes.get(name, {})) for name in systems} for systems in (LATENCY, FRONTIER, PROGRAMS)
    ))  # fmt: skip


def test_every_system_of_a_step_is_a_policy_and_none_comes_twice() -> None:
    for systems in (FRONTIER, LATENCY, PROGRAMS):
        assert len({text_of(parse(system)) for system in systems}) == len(systems)
        assert all(text_of(parse(system)) == system for system in systems)  # rows go by these names


def test_every_command_of_a_step_is_a_module(tmp_path: Path) -> None:
    for step in steps(tmp_path, 10, 5):
        for module, *_ in step.commands:
            assert importlib.util.find_spec(module) is not None, module


def test_every_section_that_a_step_writes_is_in_the_document(tmp_path: Path) -> None:
    for step in steps(tmp_path, 10, 5):
        for command in step.commands:
            if "--write" in command[:-1]:
                document, _, section = command[command.index("--write") + 1].rpartition(":")
                assert f"<!-- {section}:begin -->" in (ROOT / document).read_text(), section


# fmt: off
CASES: list[tuple[str, dict[str, dict[str, Any]], str]] = [
    ("3.0 to 4.1 times faster", {}, HOLDS),
    ("3.0 to 4.1 times faster", {name: {"speed_up_low": 2.5} for name in LATENCY}, IN_PART),
    ("3.0 to 4.1 times faster", {name: {"difference": -0.05} for name in FRONTIER + LATENCY}, NOT),
    ("more accurate than the LLM", {}, NOT),
    ("more accurate than the LLM", {"threshold:tau=0.001": {"difference": 0.02, "mcnemar_p": 0.001}}, HOLDS),
    # The best of six on the same problems: a p of 0.03 is what chance gives.
    ("more accurate than the LLM", {"threshold:tau=0.001": {"difference": 0.02, "mcnemar_p": 0.03}}, NOT),
    ("random routing loses", {}, NOT),
    ("random routing loses", {"random:slm_probability=0.965": {"accuracy_high": 0.9, "llm_share": 0.0501}}, NOT),
    ("random routing loses", {name: {"accuracy_high": 0.9} for name in FRONTIER if "random" in name}, HOLDS),
    ("speculative decoding", {"speculative:draft_tokens=4": {"speed_up": 1.5}}, HOLDS),
    ("speculative decoding", {"speculative:draft_tokens=4": {"speed_up": 0.5}}, IN_PART),
    ("speculative decoding", {"speculative:draft_tokens=4": {"only_baseline": 1}}, NOT),
    ("R-Stitch+ dominates", {}, NOT),
    ("R-Stitch+ dominates", {"learned:name=tiny": {"latency_ms": 84.0}}, HOLDS),
    ("R-Stitch+ dominates", {"learned:name=tiny": {"latency_ms": 90.0}}, IN_PART),
    ("R-Stitch+ dominates", {"learned:name=tiny": {"latency_ms": 50.0, "accuracy": 0.9}}, NOT),
    # The best tau is not the most accurate one at any price: a faster one within half a point of it counts.
    ("R-Stitch+ dominates", {"threshold:tau=0.005": {"accuracy": 0.983, "latency_ms": 140.0},
                             "learned:name=tiny": {"latency_ms": 99.0}}, IN_PART),
    ("R-Stitch+ dominates", {"threshold:tau=0.005": {"accuracy": 0.983, "latency_ms": 140.0},
                             "learned:name=tiny": {"latency_ms": 50.0, "accuracy": 0.977}}, NOT),
    ("early exit", {"threshold:tau=0.02+early_exit:threshold=0.95": {"latency_ms": 80.0}}, HOLDS),
    ("early exit", {"threshold:tau=0.02+early_exit:threshold=0.95": {"latency_ms": 80.0},
                    "llm_only+early_exit:threshold=0.95": {"latency_ms": 70.0}}, NOT),
    ("other tasks", {"threshold:tau=0.02": {"difference": -0.2}}, NOT),
    ("16k tokens", {}, UNTESTED),
]
# fmt: on


@pytest.mark.parametrize(("claim", "changes", "expected"), CASES)
def test_verdicts_follow_the_rows(claim: str, changes: dict[str, dict[str, Any]], expected: str) -> None:
    assert verdict(claim, runs(**changes)) == expected


def test_a_figure_says_what_it_was_chosen_of_and_how_sure_it_is() -> None:
    changed = runs(**{"learned:name=tiny": {"latency_ms": 80.0}})
    beside = replace(changed, beside=lambda tau: {"learned:name=tiny": row("", speed_up_low=1.2, speed_up_high=1.3)})
    line = next(line for line in table(beside).splitlines() if "R-Stitch+ dominates" in line)
    assert "20% [17%, 23%] less" in line
    assert f"of {len(LEARNED)} heads the fastest" in line
    assert f"of {len(set(ENTROPY) & set(LATENCY))} tau the fastest" in line
    unequal = next(line for line in table(changed).splitlines() if "speculative decoding" in line)
    assert "50.0% of the answers the LLM's token for token" in unequal


def test_accuracy_is_that_of_the_run_with_more_problems() -> None:
    right, wrong = runs(), runs(**{name: {"accuracy": 0.9, "difference": -0.08} for name in FRONTIER + LATENCY})
    few_but_right = Runs(right.latency, wrong.frontier, wrong.programs)
    assert verdict("3.0 to 4.1 times faster", few_but_right) == NOT
    few_but_wrong = Runs(wrong.latency, right.frontier, right.programs)
    assert verdict("3.0 to 4.1 times faster", few_but_wrong) == HOLDS


def test_signals_are_compared_at_equal_share_however_fine_their_grids() -> None:
    curve = {"0.001": (0.16, 0.98), "0.005": (0.08, 0.98), "0.02": (0.04, 0.97), "0.05": (0.02, 0.95),
             "0.1": (0.01, 0.90), "0.2": (0.005, 0.80)}  # fmt: skip
    shares = {f"threshold:tau={tau}": {"llm_share": at[0], "accuracy": at[1]} for tau, at in curve.items()}
    on_the_curve = {"confidence:threshold=0.8": {"llm_share": 0.04, "accuracy": 0.97}}
    below = {"confidence:threshold=0.8": {"llm_share": 0.04, "accuracy": 0.93}}
    others = {name: {"llm_share": 0.5} for name in FRONTIER if name.startswith("confidence") and "=0.8" not in name}
    assert verdict("entropy is the better signal", runs(**shares, **others, **on_the_curve)) == NOT
    assert verdict("entropy is the better signal", runs(**shares, **others, **below)) == HOLDS


def test_what_was_not_run_says_so() -> None:
    text = table(Runs({}, {}, {}))
    assert text.count("not measured") == len([claim for claim in claims.CLAIMS if claim[1]])
