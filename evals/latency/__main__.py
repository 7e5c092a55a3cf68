"""`rstitch latency [COMMAND]`, or `python -m evals.latency`: the latency model, from calls to a checked file.

Without a command: `run`, which times calls of both workers, fits the formulas and writes them. `check` does that too,
or reads a file, then compares modelled with measured latency of whole answers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from evals.asking.access import access
from evals.asking.stack_options import RouterOrStack
from evals.asking.stacks import local_stack
from evals.asking.values import counts, wholes
from evals.commands import run_program
from evals.figures.progress import progress_bar
from evals.figures.report import terminal_table
from evals.latency import page, plots
from evals.latency.answers import Asker
from evals.latency.calls import Service
from evals.latency.check import Checked, check
from evals.latency.measure import Plan, measure
from evals.latency.model import LatencyModel
from evals.latency.pair import fitted, probers_of, workers_of
from evals.latency.profile import CACHED, INPUTS, TimedCall
from evals.tasks.tiny.arithmetic import problems
from rstitch.cli.progress import stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.errors import invalid

Calls = dict[str, list[TimedCall]]


@dataclass(frozen=True, kw_only=True)
class Options(RouterOrStack):
    """The options of `rstitch latency`."""

    command: Annotated[Literal["run", "check"], typer.Argument(help="What to do.")] = "run"
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT,HOST:PORT",
            help="Running workers of SLM and LLM, without a router: what serving adds is not measured.",
        ),
    ] = None
    inputs: Annotated[Sequence[int], counts("Tokens put in.")] = INPUTS
    cached: Annotated[Sequence[int], typer.Option(parser=wholes, metavar="N,...", help="Tokens cached, 0 or more.")] = (
        CACHED
    )
    repeats: Annotated[int, typer.Option(min=1, help="Of each cell, in turn.")] = 9
    answers: Annotated[
        int, typer.Option(min=1, help="Questions, each by every policy, that show what serving adds.")
    ] = 8
    n: Annotated[int, typer.Option(min=1, help="check: questions, each by every policy.")] = 24
    split: Annotated[Literal["test", "dev"], typer.Option(help="check: whose questions.")] = "test"
    catch_up_tokens: Annotated[int, typer.Option(help="Of the router's setting.")] = 32
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 400
    seed: Annotated[int, typer.Option(help="Of tokens and orders.")] = 0
    model: Annotated[
        Path | None,
        typer.Option(
            "--latency-model", "--model", metavar="FILE",
            help="check: a latency.json of before, instead of profiling now.",
        ),
    ] = None  # fmt: skip
    json: Annotated[Path, typer.Option(metavar="FILE", help="Where the model goes.")] = Path("latency.json")
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Residuals; of check beside it, as NAME_check.")] = (
        None
    )
    write: Annotated[
        bool,
        typer.Option("--write", help="The model and plots of docs/results, and the tables of docs/latency_model.md."),
    ] = False


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns the exit code."""
    return run_program("rstitch latency", __doc__, run, Options, arguments, bad_input=(ValueError, OSError))


def run(options: Options) -> int:
    """Runs a command; returns the exit code."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    if options.write:
        options = replace(options, json=page.RESULTS / "latency.json", plot=page.RESULTS / "latency.png")
    if options.command == "check" and options.workers:
        raise invalid("--workers", "a check asks whole answers.", "Give --router, or neither.")
    given = LatencyModel.load(options.model) if options.command == "check" and options.model else None
    with stopped_by_signals(), ExitStack() as held, progress_bar(console) as progress:
        slm_llm, router = _addresses(options, held, progress)
        model, calls, checked = asyncio.run(_work(options, given, slm_llm, router, progress))
    _tell(options, model, calls, checked, console)
    return 0


def _addresses(options: Options, held: ExitStack, progress: Progress) -> tuple[list[str], str]:
    """Of the workers, and of the router ("": none); of a stack of our own if none are named."""
    if options.workers:
        workers = options.workers.split(",")
        if len(workers) != 2:
            raise invalid("--workers", f"{options.workers!r} are not two addresses.", "Write HOST:PORT,HOST:PORT.")
        return workers, ""
    if options.router:
        return [], options.router
    task = progress.add_task("starting the stack", total=None)
    stack = held.enter_context(local_stack(options))
    progress.remove_task(task)
    return list(stack.worker_addresses), stack.router_address


async def _work(
    options: Options, given: LatencyModel | None, workers: list[str], router: str, progress: Progress
) -> tuple[LatencyModel, Calls, Checked | None]:
    service, checks = Service(options.catch_up_tokens), options.command == "check"
    async with AsyncExitStack() as held:
        client = await held.enter_async_context(AsyncClient(router, credentials=access())) if router else None
        if client is not None and not workers:
            workers = await workers_of(client)
        probers = {} if given else await probers_of(workers, options.seed, held)
        asker = Asker(client, options.max_new_tokens, options.seed) if client else None
        # fmt: off
        plan = Plan(
            [num for num in options.inputs if num > 1], options.cached, options.repeats,
            _questions("train", 0 if given or not client else options.answers, options.seed),
            _questions(options.split, options.n if checks else 0, options.seed), options.seed,
        )
        # fmt: on
        task = progress.add_task("measuring", total=plan.num_measured(probers))
        if asker is not None:
            await asker.ask(problems("dev", 1, seed=options.seed + 1)[0].question)  # warms up
        made = await measure(probers, asker, plan, lambda: progress.advance(task))
    model = given or fitted(made, probers, plan, service)
    return model, made.calls, check(model, made.held_out, service) if checks else None


def _questions(split: str, num: int, seed: int) -> list[str]:
    return [problem.question for problem in problems(split, num, seed)]


def _tell(options: Options, model: LatencyModel, calls: Calls, checked: Checked | None, console: Console) -> None:
    console.print(terminal_table("formulas", page.FORMULAS, page.formula_rows(model)))
    if model.serving:
        console.print(page.serving_line(model))
    if calls.get("slm"):
        model.save(options.json)
        console.print(f"written: {options.json}")
        if options.plot:
            plots.plot_fit(model, calls, options.plot)
    if checked:
        console.print(terminal_table("whole answers", page.ANSWERS, checked.rows()))
        console.print(page.check_line(checked))
        if options.plot:
            plots.plot_check(checked, options.plot.with_stem(f"{options.plot.stem}_check"))
    if options.write:
        page.write(model, checked)


if __name__ == "__main__":
    sys.exit(main())
