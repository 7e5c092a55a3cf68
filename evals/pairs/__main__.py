"""`rstitch pairs`, or `python -m evals.pairs`: which SLM suits an LLM.

For each candidate SLM: LLM share, switches, trace length and speed-up at equal accuracy, predicted from one pass in
which each model reads the other's answers, and the threshold at which to run it. `--check` measures each of them on the
real stack, on other questions, and prints both side by side. docs/pairs.md says how, and where it is blind.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from transformers.utils import logging

from evals.asking.values import Device
from evals.commands import run_program
from evals.figures.progress import progress_bar
from evals.figures.provenance import provenance
from evals.figures.report import terminal_table
from evals.pairs import questions, report
from evals.pairs.check import Measured, measured, rank_correlations
from evals.pairs.predict import Candidate, alike, predict, ranked
from evals.pairs.questions import Asked
from evals.pairs.reading import load
from evals.pairs.timing import timings
from evals.pairs.together import Asking, Known, samples
from evals.pairs.vocabularies import stitchable
from model_worker.engine.errors import UnsupportedModel
from router_svc.trajectory.types import Model
from rstitch.cli.progress import stopped_by_signals
from rstitch.errors import invalid
from rstitch.local.part import default_threads
from rstitch.local.stack import LocalStack, WorkerOptions

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `rstitch pairs`."""

    llm: Annotated[str, typer.Option("--llm-model", "--llm", metavar="DIR", help="Folder or hub id of the LLM.")]
    slm: Annotated[
        list[str],
        typer.Option("--slm-model", "--slm", metavar="DIR", help="Folder or hub id of a candidate; may be repeated."),
    ]
    data: Annotated[
        str,
        typer.Option(metavar="FILE|NAME:SPLIT", help="JSONL with question (and answer), or tiny:dev, programs:dev."),
    ] = "tiny:dev"
    n: Annotated[int, typer.Option(min=1, help="Questions to predict from.")] = 32
    max_loss: Annotated[float, typer.Option(metavar="POINTS", help="Of accuracy that the proposed tau may cost.")] = 1.0
    latency: Annotated[
        Path | None,
        typer.Option(
            "--latency-model", "--latency", metavar="FILE", help="Of rstitch latency.", show_default="time it here"
        ),
    ] = None
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer.", show_default="what the task needs")
    ] = None
    device: Device = "cpu"
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the models.")] = "float32"
    threads: Annotated[
        int,
        typer.Option(
            min=1, help="CPU threads of each model, here and on the stack.", show_default="half of the machine's"
        ),
    ] = field(default_factory=default_threads)
    check: Annotated[bool, typer.Option("--check", help="Measure the ranking on the real stack too.")] = False
    check_n: Annotated[int, typer.Option(min=1, help="Questions of the check.")] = 100
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="All figures for machines; - prints them.")] = None
    write: Annotated[bool, typer.Option("--write", help="The section of docs/pairs.md, its figures and its plot.")] = (
        False
    )
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Accuracy over speed-up.")] = None


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns the exit code."""
    bad_input = (UnsupportedModel, ValueError, OSError)
    return run_program("rstitch pairs", __doc__, run, Options, arguments, bad_input=bad_input)


def run(options: Options) -> int:
    """Predicts, measures if asked, tells; returns the exit code."""
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)  # as a worker does: with all of the machine's small models crawl
    console = Console(stderr=options.json == Path("-"), highlight=False, width=None if sys.stdout.isatty() else 120)
    with stopped_by_signals(), progress_bar(console) as progress:
        asked, candidates, how = _predicted(options, progress)
        served = _served(options, asked, candidates, progress) if options.check else {}
    _tell(options, candidates, served, how, console)
    return 0


def _predicted(options: Options, progress: Progress) -> tuple[Asked, list[Candidate], str]:
    if not 0 <= options.max_loss <= 100:
        raise invalid("--max-loss", f"{options.max_loss} are no points of accuracy.", "Give 0 to 100.")
    asked = questions.load(options.data, options.n, options.check_n if options.check else 0)
    names = list(dict.fromkeys(options.slm))
    pairs = stitchable(options.llm, names)
    device, dtype = options.device, _DTYPES[options.dtype]
    llm = load(options.llm, pairs[names[0]].sides[Model.LLM], device, dtype)
    slms = [load(name, pairs[name].sides[Model.SLM], device, dtype) for name in names]
    num = len(asked.questions)
    writing = {
        name: progress.add_task(f"{report.short_name(name)} answers", total=num) for name in (options.llm, *names)
    }
    reading = progress.add_task("reading each other", total=len(slms) * num)
    asking = Asking(
        asked.questions,
        options.max_new_tokens or asked.max_new_tokens,
        lambda name, more: progress.advance(writing[name], more),
        lambda: progress.advance(reading),
    )
    known: Known = {}
    read = [samples(slm, llm, pairs[slm.name], asking, known) for slm in slms]
    timed, how = timings(llm, slms, options.latency)
    candidates = [
        predict(slm.name, slm.num_parameters, sampled, timing, options.max_loss / 100)
        for slm, sampled, timing in zip(slms, read, timed, strict=True)
    ]
    return asked, ranked(candidates), how


def _served(options: Options, asked: Asked, candidates: list[Candidate], progress: Progress) -> dict[str, Measured]:
    limit = options.max_new_tokens or asked.max_new_tokens
    worker = partial(WorkerOptions, device=options.device, dtype=options.dtype, threads=options.threads)
    found = {}
    for candidate in candidates:
        task = progress.add_task(f"{report.short_name(candidate.name)} served", total=len(asked.for_check))
        stack = LocalStack(worker(candidate.name), worker(options.llm))
        found[candidate.name] = measured(stack, candidate, asked.for_check, limit, partial(progress.advance, task))
    return found


def _tell(
    options: Options, candidates: list[Candidate], served: dict[str, Measured], how: str, console: Console
) -> None:
    pairs = [(candidate, served[candidate.name]) for candidate in candidates if served]
    plain: dict[str, Any] = {
        "provenance": provenance(),
        "llm": options.llm,
        "data": options.data,
        "n": options.n,
        "latency": how,
        "candidates": [
            one.as_dict() | {"measured": served[one.name].as_dict() if one.name in served else None}
            for one in candidates
        ],
        "alike": alike(candidates),
        "rank_correlations": rank_correlations(pairs) if pairs else {},
    }
    table = report.rows(candidates, served)
    console.print(terminal_table(report.predicted_title(candidates), report.PREDICTED, table))
    console.print(f"Latency: {how}.")
    for said in plain["alike"]:
        console.print(said, soft_wrap=True, markup=False)
    if pairs:
        console.print(terminal_table(report.COMPARED_TITLE, report.COMPARED, table))
        for line in report.correlation_lines(plain["rank_correlations"], len(pairs)):
            console.print(line)
    if options.plot:
        report.plot(candidates, served, options.plot)
    if options.write:
        report.write(plain, candidates, served)
    if str(options.json) == "-":
        print(json.dumps(plain))
    elif options.json:
        options.json.write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
