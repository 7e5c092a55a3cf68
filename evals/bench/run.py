"""`rstitch bench run`: `transformers`, our engine and our whole system on the same problems, under the same loads.

Paired: all systems answer a problem (with more sessions: a block of problems) before the next is asked. Questions and
answers are those of the tiny pair's task; other pairs can be named, and say nothing about accuracy then.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from transformers import AutoTokenizer

from evals.asking import stacks
from evals.asking.blocks import Plan, measure, taking_part
from evals.asking.load import Load
from evals.asking.openai_server import OpenAiServer
from evals.asking.record import Record
from evals.asking.stack_options import StackOptions
from evals.asking.systems import Served, System, Terms
from evals.asking.values import OutsideServer, counts, numbers, outside_server, rates, some_of
from evals.bench import page
from evals.bench.collector import Collector
from evals.bench.in_process import EngineAlone, Generate, load_model
from evals.checking.checkers import checker_of
from evals.figures import answers as figures
from evals.figures import plots, tables
from evals.figures.progress import progress_bar
from evals.figures.provenance import ROOT, line, provenance
from evals.options import many
from evals.tasks.data import Problem, load_data
from evals.tasks.task import load
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Policy, SlmOnly, Threshold
from rstitch.local.part import StackError
from rstitch.service.logs import setup_logging

KINDS = ("generate", "assisted", "engine", "llm_only", "slm_only", "threshold")
TELEMETRY = "telemetry"
_TASK = "tiny"
# What an answer may need at most; the longest of the tiny LLM's are about half of it.
MAX_NEW_TOKENS = 400
_MIN_PRACTICE = 2
# Tokens; questions of the task need fewer than half of them.
_ROOM_FOR_PROMPT = 512

# Answers by load.
Found = dict[Load, list[Record]]


@dataclass(frozen=True, kw_only=True)
class Options(StackOptions):
    """The options of `rstitch bench run`."""

    n: Annotated[
        int,
        typer.Option(
            min=1,
            help="Problems of each system and load, rounded up to whole blocks, at least two where sessions are many; "
            "500 for a claim about accuracy.",
        ),
    ] = 64
    systems: Annotated[
        Sequence[str], typer.Option(parser=some_of(KINDS), metavar="NAME,...", help="Who takes part.")
    ] = KINDS
    taus: Annotated[
        Sequence[float],
        typer.Option(parser=numbers, metavar="TAU,...", help="Of threshold."),
    ] = (0.005, 0.02, 0.05)
    concurrency: Annotated[
        Sequence[int],
        counts("Sessions of the closed loops, each of which asks its next question when the one before is answered."),
    ] = (1, 4, 16, 64)
    rate: Annotated[
        Sequence[float],
        typer.Option(
            parser=rates,
            metavar="R,...",
            help="Also Poisson arrivals of so many questions a second; latency counts from the arrival.",
            show_default="none",
        ),
    ] = ()
    rounds: Annotated[int, typer.Option(min=1, help="Questions of each session in a block.")] = 4
    split: Annotated[
        Literal["test", "dev", "calibration"], typer.Option(help="dev is for choosing, test for reporting.")
    ] = "test"
    seed: Annotated[int, typer.Option(help="Of problems and arrivals.")] = 0
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Of an answer; the default is more than the tiny pair ever needs.")
    ] = MAX_NEW_TOKENS
    variant: Annotated[
        list[stacks.Variant],
        typer.Option(
            parser=stacks.named_variant,
            metavar="'NAME: FLAGS'",
            help="A second stack with further flags (as --router-arg and its kin), block by block beside the first; "
            "may be repeated. On one GPU all that takes part must fit: --worker-arg=--kv-tokens=N.",
        ),
    ] = many()
    beside: Annotated[
        list[OutsideServer],
        typer.Option(
            parser=outside_server,
            metavar="NAME=URL",
            help="Another server with the LLM, such as vllm=http://localhost:8000/v1, asked by OpenAI's chat "
            "completions for whole answers; may be repeated.",
        ),
    ] = many()
    telemetry: Annotated[bool, typer.Option("--telemetry", help="A variant that sends its traces to a collector.")] = (
        False
    )
    json: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Records and rows; - writes them to stdout, tables to stderr."),
    ] = None
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Accuracy over latency, throughput over sessions.")
    ] = None
    write: Annotated[bool, typer.Option("--write", help="Into docs/results/performance.md, tables and plot.")] = False


def run(options: Options) -> int:
    """Starts what takes part, measures, prints and writes. Returns the exit code."""
    setup_logging("bench", "warning")
    console = Console(stderr=options.json == "-", highlight=False)
    loads = [*(Load(sessions) for sessions in options.concurrency), *(Load(rate=rate) for rate in options.rate)]
    if not (loads and options.systems):
        console.print("error: nothing to measure: name a --concurrency or a --rate, and --systems", style="bold red")
        return 2
    facts = provenance()
    with stopped_by_signals(), ExitStack() as held:
        plan = Plan(options.n, options.rounds, options.seed)
        in_process = _in_process(options, max(plan.most_at_once(load) for load in loads))
        routers = _start(options, held, console)
        found = asyncio.run(_measure(options, plan, in_process, routers, loads, console))
    result: dict[str, Any] = {
        "provenance": facts,
        "settings": {name: getattr(options, name) for name in ("split", "seed", "rounds", "threads", "max_new_tokens")},
        "baseline": figures.baseline_of(next(iter(found.values()))),
        "rows": [row for load, records in found.items() for row in figures.under_load(records, load)],
        "records": [dataclasses.asdict(record) for records in found.values() for record in records],
    }
    for table in tables.matrix_terminal(result):
        console.print(table)
        console.print()
    console.print(tables.NOTES.format(baseline=result["baseline"]), style="dim")
    console.print(line(result["provenance"]), style="dim")
    if options.json == "-":
        json.dump(result, sys.stdout)
        sys.stdout.write("\n")
    elif options.json:
        Path(options.json).write_text(json.dumps(result) + "\n")
    if options.plot:
        plots.matrix(result["rows"], options.plot)
    if options.write:
        _write(result, console)
    return 0


def _start(options: Options, held: ExitStack, console: Console) -> dict[str, str]:
    """The addresses of the routers by the name of the variant; "" is the stack itself."""
    if not set(KINDS[3:]) & set(options.systems):
        return {}
    wanted = {"": stacks.local_stack(options)}
    wanted |= {name: stacks.local_stack(options, flags) for name, flags in options.variant}
    if options.telemetry:
        collector = held.enter_context(Collector())
        wanted[TELEMETRY] = stacks.local_stack(options, env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint})
    for stack in wanted.values():
        start(stack, console)
        held.callback(stack.stop)
    return {name: stack.router_address for name, stack in wanted.items()}


async def _measure(
    options: Options,
    plan: Plan,
    in_process: list[System],
    routers: dict[str, str],
    loads: list[Load],
    console: Console,
) -> Found:
    asked = _problems(options.split, max(plan.num_asked(under) for under in loads), options.seed)
    found: Found = {}
    async with AsyncExitStack() as held:
        checker = await held.enter_async_context(checker_of(load(_TASK)))
        clients = {name: await held.enter_async_context(AsyncClient(address)) for name, address in routers.items()}
        terms = Terms(options.max_new_tokens)
        outside = [held.enter_context(closing(OpenAiServer(name, url, terms))) for name, url in options.beside]
        systems = [*in_process, *outside, *_served(options, clients)]
        total = sum(plan.num_asked(under) * len(taking_part(systems, under)) for under in loads)
        with progress_bar(console) as progress:
            task = progress.add_task("measuring", total=total)

            def note(record: Record) -> None:
                if record.error:
                    raise StackError(f"{record.system}: {record.error}")
                progress.update(task, advance=1, description=f"{record.load}: {record.system}")

            for under in loads:
                practice = _problems("calibration", max(_MIN_PRACTICE, under.num_sessions), 0)
                chosen = taking_part(systems, under)
                found[under] = await measure(chosen, asked, under, plan, checker, practice, note)
                if not console.is_terminal:  # where no bar moves
                    console.print(f"{under.label}: done")
    return found


def _problems(split: str, n: int, seed: int) -> list[Problem]:
    return load_data(load(_TASK), split=split, seed=seed, n=n).problems


def _in_process(options: Options, num_sessions: int) -> list[System]:
    """What runs in this process, with room for so many sessions. Loaded first: a worker alone on a GPU takes what is
    left of it. Two of them on one size their caches by the whole device: --worker-arg=--kv-tokens=N leaves room.
    """
    slm, llm = stacks.models(options)
    limit = options.max_new_tokens
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(llm) if set(KINDS[:3]) & set(options.systems) else None
    systems: list[System] = []
    if set(KINDS[:2]) & set(options.systems):
        model = load_model(llm, *stacks.device_and_dtype(options, "llm"))
        if "generate" in options.systems:
            systems.append(Generate("generate", model, tokenizer, limit))
        if "assisted" in options.systems:
            assistant = load_model(slm, *stacks.device_and_dtype(options, "slm"))
            systems.append(Generate("assisted", model, tokenizer, limit, assistant))
    if "engine" in options.systems:
        engine = stacks.llm_engine(options, kv_tokens=num_sessions * (_ROOM_FOR_PROMPT + limit))
        systems.append(EngineAlone("engine", engine, tokenizer, limit))
    return systems


def _served(options: Options, clients: dict[str, AsyncClient]) -> list[System]:
    alone: dict[str, Policy] = {"llm_only": LlmOnly(), "slm_only": SlmOnly()}
    policies = {name: policy for name, policy in alone.items() if name in options.systems}
    if "threshold" in options.systems:
        policies |= {f"tau={tau:g}": Threshold(tau) for tau in options.taus}
    terms = Terms(options.max_new_tokens)
    return [
        Served(f"{name} ({variant})" if variant else name, client, policy, terms)
        for variant, client in clients.items()
        for name, policy in policies.items()
    ]


def _write(result: dict[str, Any], console: Console) -> None:
    docs = ROOT / "docs"
    plots.matrix(result["rows"], docs / "results" / "matrix.png")
    without_records = {name: value for name, value in result.items() if name != "records"}
    (docs / "results" / "matrix.json").write_text(json.dumps(without_records, indent=1) + "\n")
    page.write("matrix", tables.matrix_document(result, Path("matrix.png")))
    console.print(f"written: {page.PAGE}")
