"""`rstitch eval run`: every system answers every problem of a task; one line per answer, in a file.

The same command again goes on where the file stops; more systems, problems or samples can be added to it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from evals.asking.access import access
from evals.asking.ask import ask, jobs, without_trace
from evals.asking.load import Load
from evals.asking.record import Question, Record
from evals.asking.run_file import Run, RunFile
from evals.asking.stack_options import RouterOrStack
from evals.asking.stacks import router_of
from evals.asking.systems import Served, Terms, named_specs
from evals.checking.checker import Checker
from evals.checking.checkers import checker_of
from evals.figures import answers as figures
from evals.figures import tables
from evals.figures.progress import progress_bar
from evals.figures.provenance import provenance
from evals.options import many
from evals.tasks.data import Data, load_data
from evals.tasks.task import Task, chosen
from rstitch.cli.progress import stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Sampling, Status
from rstitch.errors import invalid

_RECOMMENDED = ("temperature", "top_p", "samples")


@dataclass(frozen=True, kw_only=True)
class Options(RouterOrStack):
    """The options of `rstitch eval run`."""

    task: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.toml", help="See rstitch eval list; without one: --data and --check."),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its problems, .jsonl or .json.", show_default="from the Hugging Face hub"),
    ] = None
    check: Annotated[
        str | None,
        typer.Option(metavar="CHECK", help="Of --data without a task: math, boxed, exact or python:module.function."),
    ] = None
    prompt: Annotated[str, typer.Option(help="Of --data without a task: {column} stands for a column.")] = "{question}"
    split: Annotated[
        str, typer.Option(help="Of problems that are generated.", show_default="the task's test split")
    ] = ""
    n: Annotated[
        int | None,
        typer.Option(min=1, help="The first so many problems.", show_default="all; of generated ones 500"),
    ] = None
    systems: Annotated[
        list[str],
        typer.Option(
            metavar="POLICY...",
            help="Such as llm_only threshold:tau=0.02,signal=margin random:slm_probability=0.9 profile:NAME "
            "threshold:tau=0.02+early_exit:threshold=0.95+budget:llm_tokens=20; "
            "the shell expands threshold:tau={0.01,0.02}.",
        ),
    ] = many("llm_only", "slm_only", "threshold:tau=0.02")
    samples: Annotated[int, typer.Option(min=1, metavar="K", help="Answers per problem.")] = 1
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0
    top_p: Annotated[float, typer.Option(help="Nucleus; 0 is all tokens.")] = 0.0
    top_k: Annotated[int, typer.Option(help="The most probable only; 0 is all tokens.")] = 0
    recommended: Annotated[
        bool, typer.Option("--recommended", help="Temperature, top-p and samples as the task says.")
    ] = False
    seed: Annotated[int, typer.Option(help="Of tokens, coins and generated problems.")] = 0
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer.", show_default="the task's")] = None
    concurrency: Annotated[
        int, typer.Option(min=1, help="Questions open at a time; latencies are those of this load.")
    ] = 1
    order: Annotated[
        Literal["interleaved", "blocks"],
        typer.Option(
            help="All systems on a problem before the next, so that a noisy machine is noisy for all of them, or one "
            "system after the other."
        ),
    ] = "interleaved"
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The run.", show_default="eval-TASK.jsonl")] = None
    no_traces: Annotated[
        bool,
        typer.Option(
            "--no-traces",
            help="Keep no tokens, entropies and texts: no entropy plots, hurt or harmful from this file.",
        ),
    ] = False
    json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout, all else on stderr.")] = False


def run(options: Options) -> int:
    """Asks, writes, reports. Returns the exit code."""
    console = Console(stderr=options.json, highlight=False)
    task = chosen(options.task, options.data, options.check, options.prompt, options.max_new_tokens)
    named_specs(options.systems)  # refuses what it does not know before anything starts
    options = _sampled(options, task)
    sampling = Sampling(options.temperature, options.top_p, options.top_k, options.seed)
    terms = Terms.of(task, options.max_new_tokens, sampling)
    data = load_data(task, options.data, options.split, options.seed, options.n)
    checker = checker_of(task)
    out = options.out or Path(f"eval-{task.name}.jsonl")
    with stopped_by_signals(), ExitStack() as held:
        router = router_of(options, held, console)
        made = asyncio.run(_run(router, task, data, terms, checker, options, out, console))
    rows = figures.rows(made)
    if options.json:
        json.dump({"configuration": made.configuration, "provenance": made.provenance, "rows": rows}, sys.stdout)
        sys.stdout.write("\n")
    else:
        for table in tables.terminal(rows, console.width):
            console.print(table)
    console.print(f"written: {out}", soft_wrap=True)
    return 0


def _sampled(options: Options, task: Task) -> Options:
    """The same with what `--recommended` stands for. Raises: RstitchError (INVALID_ARGUMENT) if it cannot be."""
    if options.recommended:
        if options.temperature or options.top_p or options.samples > 1:
            raise invalid("--recommended", "it stands beside sampling of its own.", "Give one or the other.")
        options = replace(options, **{name: getattr(task.sampling, name) for name in _RECOMMENDED})
    if options.temperature < 0 or not 0 <= options.top_p <= 1 or options.top_k < 0:
        raise invalid("--temperature, --top-p, --top-k", "out of range.", "At least 0; --top-p at most 1.")
    if options.samples > 1 and options.temperature == 0:
        raise invalid("--samples", "greedy answers are all the same.", "Give a --temperature, or one sample.")
    return options


async def _run(
    router: str,
    task: Task,
    data: Data,
    terms: Terms,
    checker: Checker,
    options: Options,
    out: Path,
    console: Console,
) -> Run:
    async with AsyncExitStack() as held:
        client = await held.enter_async_context(AsyncClient(router, credentials=access()))
        await held.enter_async_context(checker)
        configuration = _configuration(task, data, terms, await client.wait_ready(), options)
        facts = provenance()
        file = held.enter_context(RunFile(out, configuration, facts))
        systems = [Served(name, client, spec, terms) for name, spec in named_specs(options.systems).items()]
        wanted = list(jobs(systems, data.problems, options.samples, options.order))
        known = {record.key for record in file.records}
        file.ask(Question(p.index, p.id, p.prompt, p.reference) for p in data.problems)
        left = [job for job in wanted if job.key not in known]
        num_there = len(wanted) - len(left)
        if num_there:
            console.print(f"{out}: {num_there} of {len(wanted)} answers are there already", soft_wrap=True)
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


def _configuration(task: Task, data: Data, terms: Terms, status: Status, options: Options) -> dict[str, Any]:
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
        "threads": None if options.router else options.threads,
        **{role: Path(worker.model).name for role, worker in sorted(workers.items())},
        **{f"{role}_runs": f"{worker.device} {worker.dtype}" for role, worker in sorted(workers.items())},
    }
