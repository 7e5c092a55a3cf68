"""`bench http`: what the gateway costs, by the same questions over HTTP and straight to the router, in turn.

With `--before` the gateway of another checkout stands before the same router, and takes its turn, too: what a change
makes of the costs.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx2
import typer
from rich.console import Console

from evals.asking.blocks import Plan, measure
from evals.asking.load import Load
from evals.asking.posted import Posted
from evals.asking.stack_options import StackOptions, StackThreads
from evals.asking.stacks import local_stack
from evals.asking.systems import Served, Terms, named_specs
from evals.bench import in_turn
from evals.bench.metered import Metered
from evals.figures.report import Columns, Row, terminal_table
from evals.options import many
from evals.tasks.data import load_data
from evals.tasks.task import load
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.local import gateway as local_gateway
from rstitch.local.options import GatewayOptions
from rstitch.local.part import StackError
from rstitch.local.processes import free_port
from rstitch.local.stack import LocalStack

_BASE, _HTTP, _BEFORE = "gRPC", "HTTP", "HTTP before"
_PATIENCE_S = 60.0
_COLUMNS: Columns = {
    "sessions": "{sessions}",
    "system": "{system}",
    "door": "{door}",
    "pairs": "{pairs}",
    "ms gRPC": "{base:.3f}",
    "ms HTTP": "{own:.3f}",
    "HTTP / gRPC": "{ratio.value:.4f}",
    "95%": "[{ratio.low:.4f}, {ratio.high:.4f}]",
}


_CPU_COLUMNS: Columns = {
    "sessions": "{sessions}",
    "asked": "{system}",
    "gateway": "{gateway:.2f}",
    "client": "{client:.2f}",
    "router": "{router:.2f}",
    "workers": "{workers:.2f}",
}
_CPU_TITLE = "CPU milliseconds an answer"


@dataclass(frozen=True, kw_only=True)
class Options(StackOptions, in_turn.TurnOptions):
    """The options of `bench http`."""

    concurrency: in_turn.Sessions = many(1, 64)
    threads: StackThreads = 1
    before: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A checkout whose gateway is asked in turn, before this one's router."),
    ] = None


def run(options: Options) -> int:
    """Starts a stack with a gateway, asks both doors, prints. Returns the exit code."""
    console = Console()
    begin = in_turn.Begin()
    with stopped_by_signals(), ExitStack() as held:
        stack = local_stack(options, gateway=GatewayOptions())
        start(stack, console)
        held.callback(stack.stop)
        doors = {_HTTP: (stack.gateway.address, _pid(stack, "gateway"))}
        if options.before is not None:
            doors[_BEFORE] = held.enter_context(_gateway_of(options.before, stack.router_address))
        records, costs = asyncio.run(_ask(stack, doors, options, console))
    in_turn.report(records, _BASE, _COLUMNS, "what the gateway costs", begin, options, console)
    console.print(terminal_table(_CPU_TITLE, _CPU_COLUMNS, costs))
    return 0


async def _ask(
    stack: LocalStack, doors: Mapping[str, tuple[str, int]], options: Options, console: Console
) -> tuple[in_turn.Records, list[Row]]:
    task, terms = load("tiny"), Terms(options.max_new_tokens)
    found: in_turn.Records = {}
    costs: list[Row] = []
    # Less than the gateway's own 5 s, or a question may go out on a connection that is just being closed.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)
    others = {"client": os.getpid(), **{name: _pid(stack, name) for name in ("router", "slm worker", "llm worker")}}
    async with AsyncExitStack() as held:
        client = await held.enter_async_context(AsyncClient(stack.router_address))
        clients = {
            door: await held.enter_async_context(
                httpx2.AsyncClient(base_url=f"http://{address}", timeout=None, limits=limits)
            )
            for door, (address, _) in doors.items()
        }
        for sessions in options.concurrency:
            num = options.n if sessions == 1 else options.blocks * sessions * options.rounds
            problems = load_data(task, split="dev", n=num).problems
            practice = load_data(task, split="calibration", n=max(8, sessions)).problems
            found[sessions] = []
            for name, spec in named_specs(options.systems).items():
                systems = [Metered(Served(f"{_BASE}: {name}", client, spec, terms), others)]
                for door, http in clients.items():
                    metered = {**others, "gateway": doors[door][1]}
                    systems.append(Metered(Posted(f"{door}: {name}", http, spec, terms), metered))
                plan = Plan(num, options.rounds)
                found[sessions] += await measure(systems, problems, Load(sessions), plan, practice=practice)
                costs += [_cost(sessions, system) for system in systems]
                console.print(f"{sessions} sessions, {name}: done")
    return found, costs


def _cost(sessions: int, system: Metered) -> Row:
    spent = {"gateway": 0.0, **system.ms_per_answer}
    workers = spent["slm worker"] + spent["llm worker"]
    return {"sessions": sessions, "system": system.name, "workers": workers, **spent}


def _pid(stack: LocalStack, name: str) -> int:
    pid = next(part for part in stack.parts if part.name == name).process.pid
    assert pid is not None
    return pid


@contextmanager
def _gateway_of(folder: Path, router: str) -> Iterator[tuple[str, int]]:
    """A gateway of a checkout's own code. Gives its address and its process. Raises: StackError."""
    if not (folder / "gateway" / "__main__.py").is_file():
        raise StackError(f"{folder} is no checkout with a gateway.")
    address = f"127.0.0.1:{free_port()}"
    command = local_gateway.command(GatewayOptions(), address, router, None)
    env = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.DEVNULL) as process:
        try:
            ends = time.monotonic() + _PATIENCE_S
            while not local_gateway.answers(address, None, 1.0):
                if process.poll() is not None or time.monotonic() > ends:
                    raise StackError(f"the gateway of {folder} does not start.")
                time.sleep(0.05)
            yield address, process.pid
        finally:
            process.terminate()
