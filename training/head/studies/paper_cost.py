"""What a head for the paper's pairs would cost: `python -m training.head.studies.paper_cost`, by the paper's seconds.

GPU hours = the sum over all answers of a run of the seconds that such an answer takes, over `gain`. The seconds are
those of Table 1 (arXiv 2507.17307: one A100, batch 1, 8k tokens), which are tokens times latency a token as measured
there: LLM-only for what the LLM writes alone, R-Stitch+ (32B: tau 0.02, it has none) for rollouts. `gain` is how many
times as many answers are written a second when several are written at once. Of a GPU we have measured none; another
system that serves R-Stitch, on two A100, went from 55.8 to 140.6 tokens a second with four sessions
(docs/performance.md). It computes; it asks nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console

from evals.figures.provenance import ROOT
from evals.figures.report import Columns, Row, markdown_table, replace_section, terminal_table
from training.commands import run
from training.head.recipe import PRICES, TAUS, Recipe

NUM_ALONE, NUM_DEV, LONG = 200, 100, 100
GAIN = 140.6 / 55.8


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one answer on one A100, by Table 1."""

    llm_only: float
    slm_only: float
    stitched: float


# Answers to MATH, the benchmark that is most like what one would train on, and to AIME, the hardest.
PAIRS = {
    ("7B with L1-1.5B", "MATH"): Seconds(38.34, 4.56, 15.68),
    ("14B with L1-1.5B", "MATH"): Seconds(41.66, 4.56, 29.08),
    ("QwQ-32B with L1-1.5B", "MATH"): Seconds(178.38, 4.56, 43.49),
    ("7B with L1-1.5B", "AIME"): Seconds(86.63, 5.91, 37.19),
    ("14B with L1-1.5B", "AIME"): Seconds(153.20, 5.91, 107.19),
    ("QwQ-32B with L1-1.5B", "AIME"): Seconds(354.85, 5.91, 184.97),
}


@dataclass(frozen=True, slots=True)
class Answers:
    """How many answers a run needs of each kind."""

    llm_only: int
    slm_only: int
    stitched: int

    @classmethod
    def of(cls, recipe: Recipe, num_steps: int, rounds: float) -> Answers:
        """Of a run of so many steps.

        Args:
            rounds: of questions a step, for dynamic sampling draws on until enough groups have a signal.
        """
        rollouts = round(num_steps * recipe.num_questions * recipe.group_size * rounds)
        looks = num_steps // recipe.eval_every + 1
        alone = NUM_ALONE + NUM_DEV
        return cls(alone, alone, rollouts + NUM_DEV * (looks + len(TAUS) + len(PRICES)))

    def hours(self, seconds: Seconds, gain: float) -> float:
        """GPU hours at so many answers for one."""
        total = self.llm_only * seconds.llm_only + self.slm_only * seconds.slm_only + self.stitched * seconds.stitched
        return total / gain / 3600


COLUMNS: Columns = {
    "LLM and SLM": "{pair}",
    "questions": "{benchmark}",
    "s an answer": "{seconds:.1f}",
    "steps": "{steps}",
    "answers": "{answers:,}",
    "GPU hours, one at a time": "{alone:.0f}",
    "four at once": "{together:.0f}",
    "four at once, all rounds": "{most:.0f}",
}


def rows(recipe: Recipe) -> list[Row]:
    """A row for each pair and set of questions, with our number of steps and with many."""
    made = []
    for (pair, benchmark), seconds in PAIRS.items():
        for steps in (recipe.num_steps, LONG):
            least, most = (Answers.of(recipe, steps, rounds) for rounds in (1, recipe.max_rounds))
            made.append({
                "pair": pair, "benchmark": benchmark, "seconds": seconds.stitched, "steps": steps,
                "answers": least.llm_only + least.slm_only + least.stitched,
                "alone": least.hours(seconds, 1), "together": least.hours(seconds, GAIN),
                "most": most.hours(seconds, GAIN),
            })  # fmt: skip
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, or writes it; returns the exit code."""
    return run(_paper_cost, "python -m training.head.studies.paper_cost", __doc__, arguments)


def _paper_cost(write: Annotated[bool, typer.Option("--write", help="Into docs/rstitch_plus.md.")] = False) -> None:
    made = rows(Recipe())
    Console().print(terminal_table("what the paper's pairs would cost", COLUMNS, made))
    if write:
        replace_section(ROOT / "docs/rstitch_plus.md", "gpu-hours", markdown_table(COLUMNS, made))


if __name__ == "__main__":
    sys.exit(main())
