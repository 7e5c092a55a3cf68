"""`bench http`: what the gateway costs, by the same questions over HTTP and straight to the router, in turn."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import httpx2
from rich.console import Console

from evals.asking.blocks import Plan, measure
from evals.asking.load import Load
from evals.asking.posted import Posted
from evals.asking.stacks import StackOptions, StackThreads, local_stack
from evals.asking.systems import Served, Terms, named_specs
from evals.bench import in_turn
from evals.figures.report import Columns
from evals.options import many
from evals.tasks.data import load_data
from evals.tasks.task import load
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.local.options import GatewayOptions

_BASE, _HTTP = "gRPC", "HTTP"
_COLUMNS: Columns = {
    "sessions": "{sessions}",
    "system": "{system}",
    "pairs": "{pairs}",
    "ms gRPC": "{base:.3f}",
    "ms HTTP": "{own:.3f}",
    "HTTP / gRPC": "{ratio.value:.4f}",
    "95%": "[{ratio.low:.4f}, {ratio.high:.4f}]",
}


@dataclass(frozen=True, kw_only=True)
class Options(StackOptions, in_turn.TurnOptions):
    """The options of `bench http`."""

    concurrency: in_turn.Sessions = many(1, 64)
    threads: StackThreads = 1


def run(options: Options) -> int:
    """Starts a stack with a gateway, asks both doors, prints. Returns the exit code."""
    console = Console()
    begin = in_turn.Begin()
    with stopped_by_signals(), ExitStack() as held:
        stack = local_stack(options, gateway=GatewayOptions())
        start(stack, console)
        held.callback(stack.stop)
        records = asyncio.run(_ask(stack.router_address, stack.gateway.address, options, console))
    in_turn.report(records, _BASE, _COLUMNS, "what the gateway costs", begin, options, console)
    return 0


async def _ask(router: str, gateway: str, options: Options, console: Console) -> in_turn.Records:
    task, terms = load("tiny"), Terms(options.max_new_tokens)
    found: in_turn.Records = {}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with AsyncExitStack() as held:
        client = await held.enter_async_context(AsyncClient(router))
        http = httpx2.AsyncClient(base_url=f"http://{gateway}", timeout=None, limits=limits)
        await held.enter_async_context(http)
        for sessions in options.concurrency:
            num = options.n if sessions == 1 else options.blocks * sessions * options.rounds
            problems = load_data(task, split="dev", n=num).problems
            practice = load_data(task, split="calibration", n=max(8, sessions)).problems
            found[sessions] = []
            for name, spec in named_specs(options.systems).items():
                doors = [
                    Served(f"{_BASE}: {name}", client, spec, terms), Posted(f"{_HTTP}: {name}", http, spec, terms),
                ]  # fmt: skip
                plan = Plan(num, options.rounds)
                found[sessions] += await measure(doors, problems, Load(sessions), plan, practice=practice)
                console.print(f"{sessions} sessions, {name}: done")
    return found
