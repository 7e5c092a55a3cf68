"""`make conformance`: public suites, each in an environment of its own, before the gateway of a stack of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console

from evals.asking.access import forget_access
from evals.clients.outcomes import Outcome, State, Unavailable, show
from evals.clients.suites.described import answered, own, whole
from evals.clients.suites.harnesses import inspect, lm_eval
from evals.clients.suites.load import aiperf
from evals.clients.suites.own_tests import NAMES, openai_tests
from evals.options import many
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.local.options import GatewayOptions, RouterOptions
from rstitch.local.stack import LocalStack

Suite = Callable[[str], Outcome]
SUITES: Mapping[str, tuple[Suite, ...]] = {
    "schemathesis": (whole, answered, own),
    "lm-eval": (lm_eval,),
    "inspect-ai": (inspect,),
    "aiperf": (aiperf,),
    "openai-tests": (openai_tests,),
}


def stack_of_suites() -> LocalStack:
    """Makes the stack that suites ask: with the models that they name, and short answers where they name no length."""
    router = RouterOptions(args=["--max-new-tokens", "64"])
    return LocalStack(router=router, gateway=GatewayOptions(served_model_names=NAMES))


def run_suite(name: str, http: str) -> list[Outcome]:
    """Runs a suite before the gateway at http://HOST:PORT; one that cannot be had is left out."""
    outcomes: list[Outcome] = []
    for suite in SUITES[name]:
        try:
            outcomes.append(suite(http))
        except Unavailable as why:
            return [*outcomes, Outcome(name, "", State.LEFT_OUT, str(why))]
    return outcomes


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `make conformance`."""

    only: Annotated[list[str], typer.Argument(metavar="SUITE", help=f"{', '.join(SUITES)}.", show_default="all")] = (
        many()
    )


def run(options: Options) -> int:
    """Runs the suites and prints the table. Returns the exit code."""
    console = Console()
    if unknown := set(options.only) - SUITES.keys():
        console.print(f"There is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}.")
        return 2
    forget_access()
    outcomes: list[Outcome] = []
    stack = stack_of_suites()
    with stopped_by_signals():
        start(stack, console)
        try:
            for name in options.only or SUITES:
                console.print(f"{name} ...")
                outcomes += run_suite(name, f"http://{stack.gateway.address}")
        finally:
            stack.stop()
    return show(outcomes, "suites", console)
