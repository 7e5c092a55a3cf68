"""`python -m evals.shared_layers`: shared parameters beside the two-model pair: memory, steps, whole answers.

Answers go by the client through two whole stacks, one of two workers and one of a single worker that is both models;
each problem goes to all systems before the next one does, so that a noisy machine is noisy for all. It writes the
section of docs/shared_parameters.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import Progress

from evals.asking.blocks import Plan, measure
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.run_file import Run
from evals.asking.systems import Served, Terms
from evals.asking.values import JsonFile
from evals.checking.checkers import checker_of
from evals.commands import run_program
from evals.figures import answers as figures
from evals.figures.progress import progress_bar
from evals.figures.provenance import ROOT, line, provenance
from evals.figures.report import replace_section
from evals.figures.statistics import paired_difference, paired_ratio
from evals.shared_layers import page
from evals.shared_layers.parts import Models, medians_us
from evals.tasks.data import load_data
from evals.tasks.task import load
from model_worker.tokenizer import load_tokenizer
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, SlmOnly, Threshold
from rstitch.local.stack import LocalStack, WorkerOptions

_ALONE = Load(1)
_MODELS = ROOT / "models"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `python -m evals.shared_layers`."""

    n: Annotated[int, typer.Option(min=1, help="Problems of each system.")] = 150
    split: Annotated[Literal["test", "dev"], typer.Option(help="dev is for choosing.")] = "test"
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each kind.")] = 100
    model: Annotated[
        str, typer.Option(metavar="FOLDER", help="With shared layers.", show_default="the bundled one")
    ] = str(_MODELS / "tiny-shared-layers")
    # The most accurate on dev, by the cards of tiny-slm and tiny-shared-layers.
    pair_tau: Annotated[float, typer.Option(help="Of the pair.")] = 0.005
    shared_tau: Annotated[float, typer.Option(help="Of the model with shared layers.")] = 0.005
    json: JsonFile = None
    no_write: Annotated[bool, typer.Option("--no-write", help="Print only.")] = False


async def answers(options: Options, addresses: dict[str, str], progress: Progress) -> list[dict[str, Any]]:
    """One row per policy and way of serving: what was answered how fast, and shared beside the pair."""
    task = load("tiny")
    asked = load_data(task, split=options.split, n=options.n).problems
    practice = load_data(task, split="calibration", n=2).problems
    async with (
        AsyncClient(addresses["pair"]) as pair,
        AsyncClient(addresses["shared"]) as shared,
        checker_of(task) as checker,
    ):
        systems = [
            Served(f"{way}: {name}", client, policy, Terms.of(task))
            for way, client, tau in (("pair", pair, options.pair_tau), ("shared", shared, options.shared_tau))
            for name, policy in (
                ("LLM-only", LlmOnly()),
                ("SLM-only", SlmOnly()),
                (f"R-Stitch tau={tau:g}", Threshold(tau)),
            )
        ]
        bar = progress.add_task("answers", total=len(asked) * len(systems))
        found = await measure(
            systems, asked, _ALONE, Plan(len(asked)), checker, practice, lambda record: progress.advance(bar)
        )
    run = Run({}, [], found)
    table = figures.under_load(found, _ALONE)
    for row, beside in zip(table[3:], systems[:3], strict=True):
        row |= compared(run.of(row["system"]), run.of(beside.name))
    return table


def compared(ours: list[Record], theirs: list[Record]) -> dict[str, Any]:
    """Of the same problems: the ratio of the latencies, also per token, and the difference of the accuracies."""
    ratio = paired_ratio([record.client_ms for record in ours], [record.client_ms for record in theirs])
    accuracy = paired_difference([record.correct for record in ours], [record.correct for record in theirs])
    per_token = [figures.places(chosen)["total"] for chosen in (ours, theirs)]
    return {"latency_ratio": ratio, "per_token_ratio": per_token[0] / per_token[1], "difference": accuracy}


def steps(options: Options, progress: Progress) -> tuple[dict[str, float], dict[str, dict[str, int]]]:
    """Microseconds of each step (median), and bytes of each model."""
    torch.set_num_threads(1)
    vocab_size = load_tokenizer(str(_MODELS / "tiny-llm")).vocab_size
    models = Models(_MODELS / "tiny-slm", _MODELS / "tiny-llm", Path(options.model), vocab_size)
    kinds = models.steps()
    task = progress.add_task("steps", total=options.rounds * len(kinds))
    return medians_us(kinds, options.rounds, lambda: progress.advance(task)), models.memory


def main(arguments: list[str] | None = None) -> int:
    """Parses the options, measures, prints and writes; returns the exit code."""
    return run_program("python -m evals.shared_layers", __doc__, run, Options, arguments)


def run(options: Options) -> int:
    """Measures, prints and writes; returns the exit code."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console()
    facts = provenance()
    with progress_bar(console) as progress:
        step_us, memory = steps(options, progress)
        with LocalStack() as pair, LocalStack(llm=WorkerOptions(options.model), shared_layers=True) as shared:
            addresses = {"pair": pair.router_address, "shared": shared.router_address}
            table = asyncio.run(answers(options, addresses, progress))
    found = {"provenance": facts, "memory": memory, "step_us": step_us, "answers": table}
    text = page.markdown(found, f"{line(facts)} {options.n} problems of the {options.split} split, one at a time.")
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if not options.no_write:
        (ROOT / "docs" / "results" / "shared.json").write_text(json.dumps(found, indent=1) + "\n")
        replace_section(ROOT / "docs" / "shared_parameters.md", "shared", text)
        console.print("written: docs/shared_parameters.md, docs/results/shared.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
