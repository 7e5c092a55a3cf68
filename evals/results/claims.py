"""The paper's claims beside what was measured here: `python -m evals.results.claims FOLDER [--write FILE.md:SECTION]`.

Each verdict is a rule over the rows of the runs, so that new figures change it. It measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.evaluation import figures
from evals.evaluation.records import read
from evals.evaluation.report import write
from rstitch.client.specs import parse
from rstitch.client.types import Confidence, Learned, Signal, Threshold

Row = dict[str, Any]
Rows = Mapping[str, Row]
HOLDS, IN_PART, NOT, UNTESTED = "holds", "holds in part", "does not hold", "can't be tested here"
# A loss of accuracy up to so much counts as none, in shares.
_EQUAL = 0.01


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a claim."""

    verdict: str
    figure: str


@dataclass(frozen=True, slots=True)
class Runs:
    """Rows by system: one session at a time, many at once, and of the second domain."""

    latency: Rows
    frontier: Rows
    programs: Rows


def _thresholds(rows: Rows) -> list[Row]:
    """Entropy against one tau. Raises KeyError if there is none."""
    specs = [(parse(name), row) for name, row in rows.items()]
    found = [
        row
        for spec, row in specs
        if isinstance(spec.policy, Threshold)
        and spec.policy.signal is Signal.UNSPECIFIED
        and spec.early_exit is None
        and spec.budget is None
    ]
    if not found:
        raise KeyError("threshold")
    return found


def _equal(rows: Sequence[Row]) -> list[Row]:
    """Those that lose at most a point to LLM-only."""
    return [row for row in rows if row["difference"] >= -_EQUAL]


def _points(row: Row) -> str:
    return f"{100 * row['difference']:+.1f} [{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"


def _faster(row: Row) -> str:
    return f"{row['speed_up']:.2f}x [{row['speed_up_low']:.2f}, {row['speed_up_high']:.2f}]"


def _speed_up(runs: Runs) -> Finding:
    best = max(_equal(_thresholds(runs.latency)), key=lambda row: row["speed_up"], default=None)
    if best is None:
        return Finding(NOT, "no threshold within a point of LLM-only")
    verdict = HOLDS if best["speed_up_low"] >= 3 else IN_PART if best["speed_up_low"] > 1 else NOT
    return Finding(verdict, f"`{best['system']}`: {_faster(best)} at {_points(best)} points")


def _sweet_spot(runs: Runs) -> Finding:
    row = runs.frontier["threshold:tau=0.02"]
    verdict = HOLDS if row["difference_low"] >= -2 * _EQUAL else IN_PART if row["difference_high"] >= 0 else NOT
    return Finding(verdict, f"tau 0.02: {_points(row)} points with {row['llm_share']:.1%} of the tokens by the LLM")


def _more_accurate(runs: Runs) -> Finding:
    best = max(_thresholds(runs.frontier), key=lambda row: row["difference"])
    verdict = HOLDS if best["difference_low"] > 0 else NOT
    return Finding(
        verdict, f"best of all tau, `{best['system']}`: {_points(best)} points (and it is the best of several)"
    )


def _shorter(runs: Runs) -> Finding:
    row = runs.latency["threshold:tau=0.02"]
    return Finding(
        HOLDS if row["shorter"] > 1.05 else NOT,
        f"tau 0.02: {row['speed_up']:.2f}x = {row['shorter']:.2f}x shorter x {row['cheaper']:.2f}x cheaper a token",
    )


def _random(runs: Runs) -> Finding:
    ours = runs.frontier["threshold:tau=0.02"]
    coins = [row for name, row in runs.frontier.items() if name.startswith("random:")]
    nearest = min(coins, key=lambda row: abs(row["llm_share"] - ours["llm_share"]))
    verdict = HOLDS if nearest["accuracy_high"] < ours["accuracy_low"] else NOT
    shares = f"{ours['llm_share']:.1%} and {nearest['llm_share']:.1%} LLM tokens"
    return Finding(
        verdict, f"{shares}: threshold {ours['accuracy']:.1%}, `{nearest['system']}` {nearest['accuracy']:.1%}"
    )


def _speculative(runs: Runs) -> Finding:
    row = runs.latency["speculative:draft_tokens=4"]
    same = row["only_this"] == row["only_baseline"] == 0
    within = 0.66 <= row["speed_up"] <= 2.29
    accepted = f"{row['accepted_share']:.0%} of the drafts accepted" if row.get("accepted_share") is not None else ""
    return Finding(
        HOLDS if same and within else IN_PART if same else NOT, f"{_faster(row)}, the LLM's answers; {accepted}"
    )


def _learned(runs: Runs) -> Finding:
    heads = [row for name, row in runs.latency.items() if isinstance(parse(name).policy, Learned)]
    best_tau = max(_thresholds(runs.latency), key=lambda row: (row["accuracy"], -row["latency_ms"]))
    fair = [row for row in heads if row["accuracy"] >= best_tau["accuracy"] - 0.005]
    if not fair:
        return Finding(NOT, "no head within half a point of the best tau")
    best = min(fair, key=lambda row: row["latency_ms"])
    saved = 1 - best["latency_ms"] / best_tau["latency_ms"]
    return Finding(
        HOLDS if saved >= 0.15 else IN_PART if saved > 0 else NOT,
        f"`{best['system']}` {best['accuracy']:.1%} at {best['latency_ms']:.1f} ms beside `{best_tau['system']}` "
        f"{best_tau['accuracy']:.1%} at {best_tau['latency_ms']:.1f} ms: {saved:.0%} less",
    )


def _entropy_beats_confidence(runs: Runs) -> Finding:
    """At the share of the LLM that each needs for a point of loss at most."""

    def cheapest(rows: list[Row]) -> Row | None:
        return min(_equal(rows), key=lambda row: row["llm_share"], default=None)

    entropy = cheapest(_thresholds(runs.frontier))
    confidence = cheapest([row for name, row in runs.frontier.items() if isinstance(parse(name).policy, Confidence)])
    if entropy is None or confidence is None:
        return Finding(NOT, "one of them has no point within a point of LLM-only")
    words = [f"`{row['system']}` {row['llm_share']:.1%}" for row in (entropy, confidence)]
    verdict = HOLDS if entropy["llm_share"] < 0.9 * confidence["llm_share"] else NOT
    return Finding(verdict, f"LLM tokens at a loss of at most a point: {words[0]}, {words[1]}")


def _early_exit(runs: Runs) -> Finding:
    plain = runs.latency["threshold:tau=0.02"]
    both = runs.latency["threshold:tau=0.02+early_exit:threshold=0.95"]
    faster = both["latency_ms"] < plain["latency_ms"] and both["accuracy"] >= plain["accuracy"] - _EQUAL
    return Finding(
        HOLDS if faster else NOT,
        f"with it {both['accuracy']:.1%} at {both['latency_ms']:.1f} ms, without {plain['accuracy']:.1%} at "
        f"{plain['latency_ms']:.1f} ms; {both['exited_early']} of {both['n']} left early",
    )


def _carries_over(runs: Runs) -> Finding:
    row = runs.programs["threshold:tau=0.02"]
    best = min(_equal(_thresholds(runs.programs)), key=lambda other: other["llm_share"], default=None)
    ours = f"tau 0.02 on the second domain: {_points(row)} points, {row['llm_share']:.1%} LLM tokens"
    other = f"; the cheapest within a point is `{best['system']}`" if best else "; none is within a point"
    return Finding(HOLDS if row["difference"] >= -_EQUAL else NOT, ours + other)


# Claim, and what says whether it holds; None: nothing here can.
CLAIMS: Sequence[tuple[str, Callable[[Runs], Finding] | None]] = (
    ("Table 1: 3.0 to 4.1 times faster than the LLM alone at its peaks, at equal accuracy", _speed_up),
    ("tau = 0.02 is the sweet spot: negligible loss", _sweet_spot),
    ("Table 1: stitching can be more accurate than the LLM alone", _more_accurate),
    ("part of every speed-up is a shorter trace", _shorter),
    ("random routing loses to entropy at the same share of the LLM", _random),
    ("speculative decoding: the LLM's accuracy, 0.66x to 2.29x its speed", _speculative),
    ("R-Stitch+ dominates the threshold", _learned),
    ("entropy is the better signal than confidence (v2 beside v1)", _entropy_beats_confidence),
    ("early exit (DEER) composes with stitching", _early_exit),
    ("one tau serves other tasks (the paper: mathematics and code)", _carries_over),
    ("at 16k tokens tau >= 0.02 costs 5.8 to 10.7 points with 14B and 32B models", None),
    ("the seconds of Table 1 (A100, 7B to 32B models, AIME to OlympiadBench)", None),
)


def table(runs: Runs) -> str:
    """Markdown."""
    lines = ["| the paper | here | figure |", "|-|-|-|"]
    for claim, judge in CLAIMS:
        found = _judged(judge, runs) if judge else Finding(UNTESTED, "needs models that this machine cannot run")
        lines.append(f"| {claim} | {found.verdict} | {found.figure} |")
    return "\n".join(lines)


def _judged(judge: Callable[[Runs], Finding], runs: Runs) -> Finding:
    try:
        return judge(runs)
    except KeyError as missing:
        return Finding("not measured", f"the runs have no {missing}")


def runs_in(folder: Path) -> Runs:
    """The runs that the steps have left. Raises: RstitchError if a file cannot be read."""

    def rows(name: str) -> Rows:
        path = folder / f"{name}.jsonl"
        return {row["system"]: row for row in figures.rows(read([path]))} if path.exists() else {}

    return Runs(rows("latency"), rows("frontier"), rows("programs"))


def main() -> int:
    """Prints the table; writes it where asked."""
    parser = argparse.ArgumentParser(prog="python -m evals.results.claims", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the runs of `make results`")
    parser.add_argument("--write", metavar="FILE.md:SECTION", help="puts the table there")
    options = parser.parse_args()
    text = table(runs_in(options.folder))
    sys.stdout.write(text + "\n")
    if options.write:
        caption = "Verdicts are rules over the tables above (`evals/results/claims.py`); brackets are 95% intervals."
        write(options.write, f"{text}\n\n{caption}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
