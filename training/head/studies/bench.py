"""Rollouts through the stack beside rollouts by two engines in one process: `python -m training.head.studies.bench`.

Both write the same exploring answers, block by block and in turn, so many at once; a block whose answers differ ends
the measuring. Served, the two models, the router and the asker are processes of their own, and each consultation is
sent and kept; in one process nothing is sent and one thread computes. The CPU time by process says where the time goes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer
from rich.console import Console

from evals.asking.stack_options import StackOptions
from evals.asking.stacks import Flags, local_stack, models
from evals.asking.systems import Terms
from evals.checking.checkers import checker_of
from evals.figures.provenance import line, provenance
from evals.figures.ratio import ratio
from evals.latency import LatencyModel
from evals.tasks.data import Problem
from evals.tasks.task import load
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.client.policies import Learned
from rstitch.local.part import ROOT, StackError
from rstitch.local.stack import LocalStack
from rstitch.service.head import Head
from training.commands import run
from training.head.questions import training_problems
from training.head.rollouts.engines import open_engines
from training.head.rollouts.in_process import InProcessRollouts
from training.head.rollouts.judging import Judge
from training.head.rollouts.served import ServedRollouts
from training.head.rollouts.types import Job, Rollout, Rollouts

_SAME_BITS = Flags(worker=["--batch-invariant"])


@dataclass(frozen=True, slots=True)
class BenchFlags:
    """Says what is asked, by which head, how much of it, and where the figures go."""

    task: Annotated[str, typer.Option(help="One that writes its own problems.")] = "tiny"
    head: Annotated[
        Path, typer.Option(exists=True, metavar="FILE", help="A head, that explores.", show_default="the bundled one")
    ] = ROOT / "models/heads/tiny/head.safetensors"
    latency: Annotated[
        Path,
        typer.Option(
            "--latency-model",
            "--latency",
            exists=True,
            metavar="FILE",
            help="Of the reward.",
            show_default="the bundled one",
        ),
    ] = ROOT / "docs/results/latency.json"
    sessions: Annotated[int, typer.Option(min=1, help="Answers at once.")] = 64
    rounds: Annotated[int, typer.Option(min=1, help="Answers of each session in a block.")] = 4
    blocks: Annotated[int, typer.Option(min=1, help="Of each way, in turn.")] = 8
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer.", show_default="the task's")] = None
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write all figures to this file.")] = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    return run(_bench, "python -m training.head.studies.bench", __doc__, arguments)


def _bench(options: BenchFlags, stack: StackOptions) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    torch.set_num_threads(1)
    with stopped_by_signals(), ExitStack() as held:
        found = measure(options, stack, console, held)
    for row in found["rows"]:
        console.print("{name}: {per_second:.1f} answers a second; ms of CPU an answer: {cpu}".format(**row))
    console.print(
        "served / in process: {value:.2f} [{low:.2f}, {high:.2f}] of the rate".format(**found["ratio"])
        + f"; {found['num_answers']} answers with {found['num_consultations']} consultations, the same in both"
    )
    facts = provenance()
    console.print(line(facts), style="dim")
    if options.json is not None:
        options.json.write_text(json.dumps({"provenance": facts} | found, indent=1) + "\n")


def measure(options: BenchFlags, asked: StackOptions, console: Console, held: ExitStack) -> dict[str, Any]:
    """Both ways in turn. Raises RstitchError, StackError; also where the answers are not the same ones."""
    task = load(options.task)
    head = Head.from_bytes(options.head.read_bytes())
    judge = Judge(Terms.of(task, options.max_new_tokens), checker_of(task), LatencyModel.load(options.latency))
    stack = local_stack(asked, defaults=_SAME_BITS)
    start(stack, console)
    held.callback(stack.stop)
    engines = open_engines(*models(asked), batch_invariant=True)
    ways: dict[str, Rollouts] = {
        "in process": held.enter_context(InProcessRollouts(engines, judge, options.sessions)),
        "served": held.enter_context(ServedRollouts(stack.router_address, judge, "bench", options.sessions)),
    }
    size = options.sessions * options.rounds
    problems = training_problems(task, size * (options.blocks + 1), seed=1)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, dict[str, float]] = {name: {} for name in ways}
    num_consultations = 0
    for block in range(options.blocks + 1):  # the first is for practice
        chosen = problems[size * block : size * (block + 1)]
        answers = {}
        for name in list(ways) if block % 2 else reversed(ways):
            before, began = _cpu_seconds(stack), time.perf_counter()
            answers[name] = _answers(ways[name], head, chosen, block)
            if block:
                seconds[name].append(time.perf_counter() - began)
                for process, spent in _cpu_seconds(stack).items():
                    cpu[name][process] = cpu[name].get(process, 0.0) + spent - before[process]
        if any(_plain(a) != _plain(b) for a, b in zip(*answers.values(), strict=True)):
            raise StackError(f"block {block}: the answers of both ways are not the same ones")
        num_consultations += sum(len(answer.consultations) for answer in answers["served"]) if block else 0
        console.print(f"block {block} of {options.blocks}: done", style="dim")
    num = size * options.blocks
    rows = [
        {
            "name": name,
            "per_second": size / median(seconds[name]),
            "cpu": ", ".join(f"{process} {1000 * spent / num:.1f}" for process, spent in cpu[name].items() if spent),
            "seconds": seconds[name],
        }
        for name in ways
    ]
    told = asdict(ratio(seconds["in process"], seconds["served"]))
    return {"rows": rows, "ratio": told, "num_answers": num, "num_consultations": num_consultations}


def _answers(way: Rollouts, head: Head, problems: Sequence[Problem], seed: int) -> list[Rollout]:
    jobs = [Job(problem, explore_seed=1000 * seed + index) for index, problem in enumerate(problems)]
    return way.run(jobs, Learned(way.use(head), head.facts.tau), lambda rollout: None)


def _plain(rollout: Rollout) -> tuple[Any, ...]:
    """What must be the same whoever wrote it, hidden states to the last bit included."""
    return rollout.text, rollout.right, rollout.runs, rollout.consultations


def _cpu_seconds(stack: LocalStack) -> dict[str, float]:
    """CPU time so far of this process and of the stack's, where the system tells it."""
    tick = os.sysconf("SC_CLK_TCK")
    spent = {"asker": time.process_time()}
    for part in stack.parts:
        path = Path(f"/proc/{part.process.pid}/stat")
        if path.exists():
            fields = path.read_text().rpartition(")")[2].split()
            spent[part.name] = (int(fields[11]) + int(fields[12])) / tick
    return spent


if __name__ == "__main__":
    sys.exit(main())
