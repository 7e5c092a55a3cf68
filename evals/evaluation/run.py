"""`rstitch eval run`: every system answers every problem of a task; one line per answer, in a file.

The same command again goes on where the file stops; more systems, problems or samples can be added to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from evals.asking.access import access
from evals.asking.ask import ask, jobs, without_trace
from evals.asking.flags import positive
from evals.asking.load import Load
from evals.asking.record import Question, Record
from evals.asking.run_file import Run, RunFile
from evals.asking.stacks import add_stack_arguments, router_of
from evals.asking.systems import Served, Terms, named_specs
from evals.checking import sandbox
from evals.checking.checker import Checker
from evals.checking.checkers import checker_of
from evals.figures import answers as figures
from evals.figures import tables
from evals.figures.progress import progress_bar
from evals.figures.provenance import provenance
from evals.tasks.data import Data, load_data
from evals.tasks.task import Task, chosen
from rstitch.cli.progress import stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Sampling, Status
from rstitch.errors import invalid

_DEFAULT_SYSTEMS = ("llm_only", "slm_only", "threshold:tau=0.02")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rstitch eval run`."""
    # fmt: off
    parser.add_argument("--task", metavar="NAME|FILE.toml", help="see rstitch eval list; without one: --data, --check")
    parser.add_argument("--data", type=Path, metavar="FILE",
                        help="its problems, .jsonl or .json (default: from the Hugging Face hub)")
    parser.add_argument("--check", metavar="CHECK",
                        help="of --data without a task: math, boxed, exact, code or python:module.function")
    parser.add_argument("--prompt", default="{question}",
                        help="of --data without a task: {column} stands for a column (default {question})")
    parser.add_argument("--split", default="", help="of problems that are generated (default: the task's test split)")
    parser.add_argument("--n", type=positive, help="the first so many problems (default: all; generated ones: 500)")
    parser.add_argument("--systems", nargs="+", default=list(_DEFAULT_SYSTEMS), metavar="POLICY",
                        help="such as llm_only threshold:tau=0.02,signal=margin random:slm_probability=0.9 "
                             "profile:NAME threshold:tau=0.02+early_exit:threshold=0.95+budget:llm_tokens=20; "
                             "the shell expands threshold:tau={0.01,0.02} "
                             f"(default {' '.join(_DEFAULT_SYSTEMS)})")
    parser.add_argument("--samples", type=positive, default=1, metavar="K", help="answers per problem (default 1)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=0.0, help="nucleus; 0 is all tokens (default)")
    parser.add_argument("--top-k", type=int, default=0, help="the most probable only; 0 is all tokens (default)")
    parser.add_argument("--recommended", action="store_true", help="temperature, top-p and samples as the task says")
    parser.add_argument("--seed", type=int, default=0, help="of tokens, coins and generated problems (default 0)")
    parser.add_argument("--max-new-tokens", type=positive, help="of an answer (default: the task's)")
    parser.add_argument("--concurrency", type=positive, default=1,
                        help="questions open at a time; latencies are those of this load (default 1)")
    parser.add_argument("--order", choices=("interleaved", "blocks"), default="interleaved",
                        help="all systems on a problem before the next, so that a noisy machine is noisy for all of "
                             "them, or one system after the other (default interleaved)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the run (default eval-TASK.jsonl)")
    parser.add_argument("--no-traces", action="store_true",
                        help="keep no tokens, entropies and texts: no entropy plots, hurt or harmful from this file")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout, all else on stderr")
    # fmt: on
    add_stack_arguments(parser, router=True)


def run(options: argparse.Namespace) -> int:
    """Asks, writes, reports. Returns the exit code."""
    console = Console(stderr=options.json, highlight=False)
    task = chosen(options.task, options.data, options.check, options.prompt, options.max_new_tokens)
    named_specs(options.systems)  # refuses what it does not know before anything starts
    terms = _terms(options, task)
    data = load_data(task, options.data, options.split, options.seed, options.n)
    checker = checker_of(task)
    if task.code is not None and (lacks := sandbox.isolation().lacks):
        console.print(lacks, style="yellow")
    options.out = options.out or Path(f"eval-{task.name}.jsonl")
    with stopped_by_signals(), ExitStack() as held:
        router = router_of(options, held, console)
        made = asyncio.run(_run(router, task, data, terms, checker, options, console))
    rows = figures.rows(made)
    if options.json:
        json.dump({"configuration": made.configuration, "provenance": made.provenance, "rows": rows}, sys.stdout)
        sys.stdout.write("\n")
    else:
        for table in tables.terminal(rows, console.width):
            console.print(table)
    console.print(f"written: {options.out}", soft_wrap=True)
    return 0


def _terms(options: argparse.Namespace, task: Task) -> Terms:
    if options.recommended:
        if options.temperature or options.top_p or options.samples > 1:
            raise invalid("--recommended", "it stands beside sampling of its own.", "Give one or the other.")
        for name in ("temperature", "top_p", "samples"):
            setattr(options, name, getattr(task.sampling, name))
    if options.temperature < 0 or not 0 <= options.top_p <= 1 or options.top_k < 0:
        raise invalid("--temperature, --top-p, --top-k", "out of range.", "At least 0; --top-p at most 1.")
    if options.samples > 1 and options.temperature == 0:
        raise invalid("--samples", "greedy answers are all the same.", "Give a --temperature, or one sample.")
    sampling = Sampling(options.temperature, options.top_p, options.top_k, options.seed)
    return Terms.of(task, options.max_new_tokens, sampling)


async def _run(
    router: str, task: Task, data: Data, terms: Terms, checker: Checker, options: argparse.Namespace, console: Console
) -> Run:
    async with AsyncExitStack() as held:
        client = await held.enter_async_context(AsyncClient(router, credentials=access()))
        await held.enter_async_context(checker)
        configuration = _configuration(task, data, terms, await client.wait_ready(), options)
        facts = provenance()
        file = held.enter_context(RunFile(options.out, configuration, facts))
        systems = [Served(name, client, spec, terms) for name, spec in named_specs(options.systems).items()]
        wanted = list(jobs(systems, data.problems, options.samples, options.order))
        known = {record.key for record in file.records}
        file.ask(Question(p.index, p.id, p.prompt, p.reference) for p in data.problems)
        left = [job for job in wanted if job.key not in known]
        num_there = len(wanted) - len(left)
        if num_there:
            console.print(f"{options.out}: {num_there} of {len(wanted)} answers are there already", soft_wrap=True)
        for system in dict.fromkeys(job.system for job in left):
            await system.try_out(data.problems[0])
        records = list(file.records)
        with progress_bar(console) as progress:
            bar = progress.add_task("answers", total=len(wanted), completed=num_there)

            def take(record: Record) -> None:
                record = without_trace(record) if options.no_traces else record
                file.append(record)
                records.append(record)
                right = [known.correct for known in records if known.system == record.system]
                progress.update(bar, advance=1, description=f"{record.system} {sum(right) / len(right):.1%}")

            await ask(left, Load(options.concurrency), checker, take)
    asked = {job.key for job in wanted}
    return Run(configuration, [facts], [record for record in records if record.key in asked])


def _configuration(task: Task, data: Data, terms: Terms, status: Status, options: argparse.Namespace) -> dict[str, Any]:
    """All that an answer's line depends on."""
    workers = {worker.role.value: worker for worker in status.workers}
    return {
        "task": task.name,
        "task_digest": task.digest,
        "data": data.source,
        "data_digest": data.digest,
        "max_new_tokens": terms.max_new_tokens,
        **asdict(terms.sampling),
        "concurrency": options.concurrency,
        "order": options.order,
        "traces": not options.no_traces,
        "code_runs_in": sandbox.isolation().value if task.code is not None else None,
        "threads": None if options.router else options.threads,
        **{role: Path(worker.model).name for role, worker in sorted(workers.items())},
        **{f"{role}_runs": f"{worker.device} {worker.dtype}" for role, worker in sorted(workers.items())},
    }
