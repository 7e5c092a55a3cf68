"""`make eval-tiny`: the tiny pair's accuracy and latency, LLM-only, SLM-only and R-Stitch over tau, on the real stack.

Held-out problems go in by the client, one at a time, all systems on one problem before the next, so that a noisy
machine is noisy for all of them. It writes the table and the plot of docs/results.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from rich.console import Console

from evals import report
from evals.bench.load import Load
from evals.bench.matrix import Plan, measure, rows
from evals.bench.systems import Served
from evals.progress import progress_bar
from evals.provenance import ROOT, line, provenance
from evals.report import Row
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, SlmOnly, Threshold
from rstitch.stack import LocalStack
from training.tiny.task import Problem, problems

TAUS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_ONE_AT_A_TIME = Load(1)


async def compare(address: str, asked: list[Problem], taus: list[float], console: Console) -> list[Row]:
    """One row per system, LLM-only first; `tau` is -1 where there is none."""
    async with AsyncClient(address) as client:
        stitched = {f"R-Stitch tau={tau:g}": tau for tau in taus}
        systems = [Served("LLM-only", client, LlmOnly()), Served("SLM-only", client, SlmOnly())]
        systems += [Served(name, client, Threshold(tau)) for name, tau in stitched.items()]
        with progress_bar(console) as progress:
            task = progress.add_task("asking", total=len(asked) * len(systems))
            found = await measure(
                systems,
                asked,
                problems("calibration", 2),
                _ONE_AT_A_TIME,
                Plan(len(asked)),
                lambda system, num: progress.update(task, advance=num),
            )
    return [{"tau": stitched.get(row["system"], -1.0)} | row for row in rows(found, _ONE_AT_A_TIME)]


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
    facts = provenance()
    if options.router:
        table = asyncio.run(compare(options.router, held_out, options.taus, console))
    else:
        with LocalStack() as stack:
            table = asyncio.run(compare(stack.router_address, held_out, options.taus, console))
    console.print(report.rich_table(table))
    if options.no_write:
        return
    docs = ROOT / "docs"
    report.plot(table, docs / "results" / "tiny.png")
    (docs / "results" / "tiny.json").write_text(json.dumps({"provenance": facts, "rows": table}, indent=1) + "\n")
    caption = (
        f"{line(facts)} {options.n} problems of the {options.split} split (seed 0), greedy, one session at a time; "
        "latency as the client saw it."
    )
    report.replace_section(docs / "results.md", "tiny", report.markdown(table, caption, Path("results/tiny.png")))
    console.print(f"written: {docs / 'results.md'}")


if __name__ == "__main__":
    main()
