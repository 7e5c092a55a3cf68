"""`make eval-tiny`: the tiny pair's accuracy and latency, LLM-only, SLM-only and R-Stitch over tau, on the real stack.

Held-out problems go in by the client, one at a time, all systems on one problem before the next, so that a noisy
machine is noisy for all of them. It writes the table and the plot of docs/results.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evals import report
from evals.provenance import ROOT, line, provenance
from evals.statistics import paired_difference, wilson
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Message, Policy, SlmOnly, Threshold, Usage
from rstitch.stack import LocalStack
from training.tiny.task import Problem, is_correct, problems

TAUS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
MAX_NEW_TOKENS = 400


@dataclass(slots=True)
class Outcomes:
    """One system's answers, in order of the problems."""

    name: str
    policy: Policy
    tau: float | None = None
    correct: list[bool] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)

    def mean(self, name: str) -> float:
        """Mean of a field or property of Usage."""
        return fmean(getattr(usage, name) for usage in self.usages)

    @property
    def latency_ms(self) -> float:
        """Mean milliseconds per answer, as the router saw it."""
        return self.mean("total_time_us") / 1000


def systems(taus: tuple[float, ...]) -> list[Outcomes]:
    """What is compared; LLM-only first."""
    stitched = [Outcomes(f"R-Stitch tau={tau:g}", Threshold(tau), tau) for tau in taus]
    return [Outcomes("LLM-only", LlmOnly()), Outcomes("SLM-only", SlmOnly()), *stitched]


async def measure(address: str, problems_: list[Problem], compared: list[Outcomes], console: Console) -> None:
    """Asks each problem of each system and fills the outcomes in."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("asking", total=len(problems_))
        async with AsyncClient(address) as client:
            for problem in problems_:
                for outcomes in compared:
                    answer = await client.answer(
                        chat=[Message("user", problem.question)],
                        policy=outcomes.policy,
                        max_new_tokens=MAX_NEW_TOKENS,
                    )
                    outcomes.correct.append(is_correct(answer.text, problem))
                    outcomes.usages.append(answer.finished.usage)
                    await client.delete_trajectory(answer.session_id)
                progress.update(task, advance=1, description=_running(compared))


def _running(compared: list[Outcomes]) -> str:
    return "  ".join(f"{o.name.replace('R-Stitch ', '')} {fmean(o.correct):.0%}" for o in compared[:4])


def rows(compared: list[Outcomes]) -> list[dict[str, float | str]]:
    """One row per system: figures with their intervals, the speed-up split into its two causes."""
    llm = compared[0]
    table: list[dict[str, float | str]] = []
    for outcomes in compared:
        n = len(outcomes.correct)
        low, high = wilson(sum(outcomes.correct), n)
        difference, difference_low, difference_high = paired_difference(outcomes.correct, llm.correct)
        tokens = outcomes.mean("num_tokens")
        shorter = llm.mean("num_tokens") / tokens
        speed_up = llm.latency_ms / outcomes.latency_ms
        table.append(
            {
                "system": outcomes.name,
                "tau": -1.0 if outcomes.tau is None else outcomes.tau,
                "n": n,
                "accuracy": sum(outcomes.correct) / n,
                "accuracy_low": low,
                "accuracy_high": high,
                "difference": difference,
                "difference_low": difference_low,
                "difference_high": difference_high,
                "tokens": tokens,
                "llm_share": sum(u.num_llm_tokens for u in outcomes.usages)
                / sum(u.num_tokens for u in outcomes.usages),
                "switches": outcomes.mean("num_switches"),
                "discarded": outcomes.mean("num_discarded_proposals"),
                "latency_ms": outcomes.latency_ms,
                "latency_p50_ms": median(u.total_time_us for u in outcomes.usages) / 1000,
                "ttft_p50_ms": median(u.time_to_first_token_us for u in outcomes.usages) / 1000,
                "speed_up": speed_up,
                "shorter": shorter,
                "cheaper": speed_up / shorter,
            }
        )
    return table


def main() -> None:
    """Parses flags, starts a stack unless one is named, measures, writes."""
    parser = argparse.ArgumentParser(prog="python -m evals.tiny", description=__doc__)
    parser.add_argument("--n", type=int, default=500, help="held-out problems (default 500)")
    parser.add_argument(
        "--split", choices=("test", "dev"), default="test", help="dev is for choosing, test for reporting"
    )
    parser.add_argument("--taus", type=float, nargs="+", default=list(TAUS))
    parser.add_argument("--router", help="HOST:PORT of a running router (default: start a stack)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    console = Console()
    held_out = problems(options.split, options.n)
    compared = systems(tuple(options.taus))
    facts = provenance()
    if options.router:
        asyncio.run(measure(options.router, held_out, compared, console))
    else:
        with LocalStack() as stack:
            asyncio.run(measure(stack.router_address, held_out, compared, console))
    table = rows(compared)
    console.print(report.rich_table(table))
    if options.no_write:
        return
    docs = ROOT / "docs"
    report.plot(table, docs / "results" / "tiny.png")
    (docs / "results" / "tiny.json").write_text(json.dumps({"provenance": facts, "rows": table}, indent=1) + "\n")
    caption = (
        f"{line(facts)} {options.n} problems of the {options.split} split (seed 0), greedy, one session at a time; "
        "latency as the router saw it."
    )
    report.replace_section(docs / "results.md", "tiny", report.markdown(table, caption, Path("results/tiny.png")))
    console.print(f"written: {docs / 'results.md'}")


if __name__ == "__main__":
    main()
