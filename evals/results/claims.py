"""The paper's claims beside what was measured here: `python -m evals.results.claims FOLDER [--write FILE.md:SECTION]`.

Each verdict is a rule (`rules`) over the rows of the runs, so that new figures change it. It measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from evals.asking.run_file import read
from evals.evaluation.report import write
from evals.figures import answers as figures
from evals.results import rules
from evals.results.rules import UNTESTED, Finding, Rows, Runs

# Claim, and what says whether it holds; None: nothing here can.
CLAIMS: Sequence[tuple[str, Callable[[Runs], Finding] | None]] = (
    ("Table 1: 3.0 to 4.1 times faster than the LLM alone at its peaks, at equal accuracy", rules.speed_up),
    ("tau = 0.02 is the sweet spot: negligible loss", rules.sweet_spot),
    ("Table 1: stitching can be more accurate than the LLM alone", rules.more_accurate),
    ("part of every speed-up is a shorter trace", rules.shorter),
    ("random routing loses to entropy at the same share of the LLM", rules.random),
    ("speculative decoding: the LLM's accuracy, 0.66x to 2.29x its speed", rules.speculative),
    ("R-Stitch+ dominates the threshold", rules.learned),
    ("entropy is the better signal than confidence (v2 beside v1)", rules.entropy_beats_confidence),
    ("early exit (DEER) composes with stitching", rules.early_exit),
    ("one tau serves other tasks (the paper: mathematics and code)", rules.carries_over),
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

    def rows(name: str, baseline: str = figures.BASELINE) -> Rows:
        path = folder / f"{name}.jsonl"
        return {row["system"]: row for row in figures.rows(read([path]), baseline=baseline)} if path.exists() else {}

    return Runs(rows("latency"), rows("frontier"), rows("programs"), lambda baseline: rows("latency", baseline))


def main() -> int:
    """Prints the table; writes it where asked."""
    parser = argparse.ArgumentParser(prog="python -m evals.results.claims", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the runs of `make results`")
    parser.add_argument("--write", metavar="FILE.md:SECTION", help="puts the table there")
    options = parser.parse_args()
    text = table(runs_in(options.folder))
    sys.stdout.write(text + "\n")
    if options.write:
        caption = (
            "Verdicts are rules over the tables below (`evals/results/rules.py`): accuracies and shares of the "
            "frontiers, latencies of one session at a time; brackets are 95% intervals."
        )
        write(options.write, f"{text}\n\n{caption}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
