"""`bench security`: what keys and quotas cost, by routers with and without them on the same workers and Redis, in turn.

All routers run all the time and are asked block by block, each first as often as last; one that is not asked rests. A
pair is one question where they come one at a time, else one block of all sessions. The quotas are so large that they
refuse nothing, and all of them are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from evals.asking.blocks import Plan, measure
from evals.asking.flags import positive
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.stacks import add_stack_arguments, local_stack
from evals.asking.systems import Served, System, Terms, named_specs
from evals.bench.checkouts import median_ratio, ms_per_token
from evals.figures.provenance import provenance
from evals.figures.report import Columns, Row, terminal_table
from evals.tasks.data import load_data
from evals.tasks.task import load
from router_svc.access.changes import made
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.service.caller import Limits, Scope
from rstitch.service.key_file import save

_SYSTEMS = ("threshold:tau=0.02",)
_PRACTICE = 8
_OPEN = "open"
_MANY = 10**9
_LOCKS = {"keys": Limits(), "keys and quotas": Limits(_MANY, _MANY, _MANY, _MANY, _MANY)}
_COLUMNS: Columns = {
    "sessions": "{sessions}",
    "system": "{system}",
    "router with": "{lock}",
    "pairs": "{pairs}",
    "ms open": "{open:.3f}",
    "ms with": "{locked:.3f}",
    "with / open": "{ratio.value:.4f}",
    "95%": "[{ratio.low:.4f}, {ratio.high:.4f}]",
}
_NOTE = """ms: milliseconds per token, median over pairs. with / open: median over pairs of the ratio, bootstrap over
pairs; under 1 is faster. Load average at begin and end: {begin:.2f}, {end:.2f}."""


class _KeyedClient(AsyncClient):
    """Shows a key with every call; "": none."""

    def __init__(self, address: str, secret: str) -> None:
        super().__init__(address)
        self._shown = [("authorization", f"Bearer {secret}")] if secret else []

    def _begin(self, method: str, request: Any, timeout_s: float | None) -> Any:
        return getattr(self._stub, method)(request, timeout=timeout_s, metadata=self._shown)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `bench security` to its parser."""
    # fmt: off
    parser.add_argument("--systems", nargs="+", default=list(_SYSTEMS), metavar="POLICY",
                        help=f"what is asked for (default {' '.join(_SYSTEMS)})")
    parser.add_argument("--concurrency", type=positive, nargs="+", default=[1, 16], help="sessions (default 1 16)")
    parser.add_argument("--n", type=positive, default=96, help="questions of one session (default 96)")
    parser.add_argument("--blocks", type=positive, default=16, help="blocks of several sessions (default 16)")
    parser.add_argument("--rounds", type=positive, default=2, help="questions of each session in a block (default 2)")
    parser.add_argument("--max-new-tokens", type=positive, default=400, help="of an answer (default 400)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="records and rows")
    # fmt: on
    add_stack_arguments(parser)
    parser.set_defaults(threads=1)


def run(options: argparse.Namespace) -> int:
    """Starts one stack with a router for each lock, asks, prints. Returns the exit code."""
    console, facts, begin = Console(), provenance(), os.getloadavg()[0]
    with stopped_by_signals(), ExitStack() as held:
        stack = local_stack(options)
        start(stack, console)
        held.callback(stack.stop)
        doors = {_OPEN: (stack.router_address, "")}
        for name, limits in _LOCKS.items():
            key, secret = made("bench", (Scope.GENERATE, Scope.TRAJECTORIES), limits, None, time.time())
            file = stack.folder / f"{key.id}.json"
            save(file, {key.id: key})
            doors[name] = (stack.start_router("--keys", str(file)).address, secret)
        records = asyncio.run(_measure(doors, options, console))
    rows = [row for sessions, found in records.items() for row in rows_of(sessions, found)]
    console.print(terminal_table("what a lock on the router costs", _COLUMNS, rows))
    console.print(_NOTE.format(begin=begin, end=os.getloadavg()[0]), style="dim")
    if options.json:
        kept = {"provenance": facts, "rows": [{**row, "ratio": asdict(row["ratio"])} for row in rows]}
        kept["records"] = [asdict(record) for found in records.values() for record in found]
        options.json.write_text(json.dumps(kept) + "\n")
    return 0


async def _measure(
    doors: Mapping[str, tuple[str, str]], options: argparse.Namespace, console: Console
) -> dict[int, list[Record]]:
    """All records, by number of sessions. Each policy is asked for at all routers before the next one is."""
    task, terms = load("tiny"), Terms(options.max_new_tokens)
    found: dict[int, list[Record]] = {}
    async with AsyncExitStack() as held:
        clients = {name: await held.enter_async_context(_KeyedClient(*door)) for name, door in doors.items()}
        for sessions in options.concurrency:
            num = options.n if sessions == 1 else options.blocks * sessions * options.rounds
            problems = load_data(task, split="dev", n=num).problems
            practice = load_data(task, split="calibration", n=max(_PRACTICE, sessions)).problems
            found[sessions] = []
            for name, spec in named_specs(options.systems).items():
                systems: list[System] = [
                    Served(f"{lock}: {name}", client, spec, terms) for lock, client in clients.items()
                ]
                plan = Plan(num, options.rounds)
                found[sessions] += await measure(systems, problems, Load(sessions), plan, practice=practice)
                console.print(f"{sessions} sessions, {name}: done")
    return found


def rows_of(sessions: int, records: Sequence[Record]) -> list[Row]:
    """One row per policy and lock: milliseconds per token of each pair, and their ratio."""
    by_system: dict[str, list[Record]] = {}
    for record in records:
        by_system.setdefault(record.system, []).append(record)
    rows: list[Row] = []
    for system, its in by_system.items():
        lock, _, policy = system.partition(": ")
        if lock != _OPEN:
            plain, locked = ms_per_token(by_system[f"{_OPEN}: {policy}"]), ms_per_token(its)
            told = {"open": median(plain), "locked": median(locked), "ratio": median_ratio(locked, plain)}
            rows.append({"sessions": sessions, "system": policy, "lock": lock, "pairs": len(locked), **told})
    return rows
