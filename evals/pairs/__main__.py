"""`rstitch pairs`, or `python -m evals.pairs`: which SLM suits an LLM.

For each candidate SLM: LLM share, switches, trace length and speed-up at equal accuracy, predicted from one pass in
which each model reads the other's answers, and the threshold at which to run it. `--check` measures each of them on the
real stack, on other questions, and prints both side by side. docs/pairs.md says how, and where it is blind.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers.utils import logging

from evals.asking.flags import positive
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
from rstitch.errors import RstitchError, invalid
from rstitch.local.part import StackError, default_threads
from rstitch.local.stack import LocalStack, WorkerOptions

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parser() -> argparse.ArgumentParser:
    """Makes the parser."""
    # fmt: off
    made = argparse.ArgumentParser(prog="rstitch pairs", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--llm-model", "--llm", dest="llm", required=True, metavar="DIR",
                      help="folder or hub id of the LLM")
    made.add_argument("--slm-model", "--slm", dest="slm", required=True, action="append", metavar="DIR",
                      help="folder or hub id of a candidate; can be given again")
    made.add_argument("--data", default="tiny:dev", metavar="FILE|NAME:SPLIT",
                      help="JSONL with question (and answer), or tiny:dev, programs:dev (default tiny:dev)")
    made.add_argument("--n", type=positive, default=32, help="questions to predict from (default 32)")
    made.add_argument("--max-loss", type=float, default=1.0, metavar="POINTS",
                      help="of accuracy that the proposed tau may cost (default 1)")
    made.add_argument("--latency-model", "--latency", dest="latency", type=Path, metavar="FILE",
                      help="of rstitch latency (default: time it here)")
    made.add_argument("--max-new-tokens", type=positive, help="of an answer (default: what the task needs)")
    made.add_argument("--device", default="cpu", help="cpu or cuda:N (default cpu)")
    made.add_argument("--dtype", choices=sorted(_DTYPES), default="float32")
    made.add_argument("--threads", type=positive, default=default_threads(),
                      help="CPU threads of each model, here and on the stack (default: half of the machine's)")
    made.add_argument("--check", action="store_true", help="measure the ranking on the real stack too")
    made.add_argument("--check-n", type=positive, default=100, help="questions of the check (default 100)")
    made.add_argument("--json", type=Path, metavar="FILE", help="all figures for machines; - prints them")
    made.add_argument("--write", action="store_true", help="the section of docs/pairs.md, its figures and its plot")
    made.add_argument("--plot", type=Path, metavar="FILE", help="accuracy over speed-up")
    # fmt: on
    return made


def main(arguments: list[str] | None = None) -> int:
    """Predicts, measures if asked, tells; returns the exit code."""
    options = parser().parse_args(arguments)
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)  # as a worker does: with all of the machine's small models crawl
    console = Console(stderr=options.json == Path("-"), highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        with stopped_by_signals(), progress_bar(console) as progress:
            asked, candidates, how = _predicted(options, progress)
            served = _served(options, asked, candidates, progress) if options.check else {}
        _tell(options, candidates, served, how, console)
    except (StackError, RstitchError, UnsupportedModel, ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        return 2 if isinstance(error, ValueError | UnsupportedModel) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _predicted(options: argparse.Namespace, progress: Progress) -> tuple[Asked, list[Candidate], str]:
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


def _served(
    options: argparse.Namespace, asked: Asked, candidates: list[Candidate], progress: Progress
) -> dict[str, Measured]:
    limit = options.max_new_tokens or asked.max_new_tokens
    worker = partial(WorkerOptions, device=options.device, dtype=options.dtype, threads=options.threads)
    found = {}
    for candidate in candidates:
        task = progress.add_task(f"{report.short_name(candidate.name)} served", total=len(asked.for_check))
        stack = LocalStack(worker(candidate.name), worker(options.llm))
        found[candidate.name] = measured(stack, candidate, asked.for_check, limit, partial(progress.advance, task))
    return found


def _tell(
    options: argparse.Namespace, candidates: list[Candidate], served: dict[str, Measured], how: str, console: Console
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
