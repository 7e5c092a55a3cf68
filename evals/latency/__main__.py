"""`rstitch latency [COMMAND]`, or `python -m evals.latency`: the latency model, from calls to a checked file.

Without a command: `run`, which times calls of both workers, fits the formulas and writes them. `check` does that too,
or reads a file, then compares modelled with measured latency of whole answers.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from evals.asking.access import access
from evals.asking.flags import positive, positives
from evals.asking.stacks import add_stack_arguments, local_stack
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
from rstitch.errors import RstitchError, invalid
from rstitch.local.part import StackError

Calls = dict[str, list[TimedCall]]
_COMMANDS = ("run", "check")


def parser() -> argparse.ArgumentParser:
    """Makes the parser, whose flags serve both commands."""
    # fmt: off
    made = argparse.ArgumentParser(prog="rstitch latency", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("command", nargs="?", choices=_COMMANDS, default="run", help="default run")
    made.add_argument("--router", metavar="HOST:PORT", help="a running stack (default: start one)")
    made.add_argument("--workers", metavar="HOST:PORT,HOST:PORT",
                      help="running workers of SLM and LLM, without a router: what serving adds is not measured")
    made.add_argument("--inputs", type=positives, default=list(INPUTS), help="tokens put in, such as 2,16,128")
    made.add_argument("--cached", type=_lengths, default=list(CACHED), help="tokens cached, such as 0,256,1024")
    made.add_argument("--repeats", type=positive, default=9, help="of each cell, in turn (default 9)")
    made.add_argument("--answers", type=positive, default=8,
                      help="questions, each by every policy, that show what serving adds (default 8)")
    made.add_argument("--n", type=positive, default=24, help="check: questions, each by every policy (default 24)")
    made.add_argument("--split", choices=("test", "dev"), default="test", help="check: whose questions (default test)")
    made.add_argument("--catch-up-tokens", type=int, default=32, help="of the router's setting (default 32)")
    made.add_argument("--max-new-tokens", type=positive, default=400, help="of an answer (default 400)")
    made.add_argument("--seed", type=int, default=0, help="of tokens and orders (default 0)")
    made.add_argument("--latency-model", "--model", dest="model", type=Path, metavar="FILE",
                      help="check: a latency.json of before, instead of profiling now")
    made.add_argument("--json", type=Path, metavar="FILE", default=Path("latency.json"),
                      help="where the model goes (default latency.json)")
    made.add_argument("--plot", type=Path, metavar="FILE", help="residuals; of check beside it, as NAME_check")
    made.add_argument("--write", action="store_true",
                      help="the model and plots of docs/results, and the tables of docs/latency_model.md")
    # fmt: on
    add_stack_arguments(made)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    options = parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    if options.write:
        options.json, options.plot = page.RESULTS / "latency.json", page.RESULTS / "latency.png"
    try:
        if options.command == "check" and options.workers:
            raise invalid("--workers", "a check asks whole answers.", "Give --router, or neither.")
        given = LatencyModel.load(options.model) if options.command == "check" and options.model else None
        with stopped_by_signals(), ExitStack() as held, progress_bar(console) as progress:
            slm_llm, router = _addresses(options, held, progress)
            model, calls, checked = asyncio.run(_work(options, given, slm_llm, router, progress))
        _tell(options, model, calls, checked, console)
    except (StackError, RstitchError, ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _addresses(options: argparse.Namespace, held: ExitStack, progress: Progress) -> tuple[list[str], str]:
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
    options: argparse.Namespace, given: LatencyModel | None, workers: list[str], router: str, progress: Progress
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


def _tell(
    options: argparse.Namespace, model: LatencyModel, calls: Calls, checked: Checked | None, console: Console
) -> None:
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


def _lengths(text: str) -> list[int]:
    """Reads whole numbers from 0 on, with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas between them")
    return [int(part) for part in parts]


if __name__ == "__main__":
    sys.exit(main())
