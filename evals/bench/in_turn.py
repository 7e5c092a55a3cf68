"""Routers beside one another, asked in turn: the same questions, block by block, each router first as often as last.

All of them run all the time; one that is not asked rests. A pair is one question where they come one at a time, else
one block of all sessions. It does not know in what the routers differ.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from evals.asking.blocks import Plan, measure
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.systems import Served, System, Terms, named_specs
from evals.figures.provenance import provenance
from evals.figures.ratio import Ratio
from evals.figures.report import Columns, Row, terminal_table
from evals.options import many
from evals.tasks.data import load_data
from evals.tasks.task import load
from rstitch.client.aio import AsyncClient
from rstitch.credentials import Credentials

_PRACTICE = 8
_DRAWS = 2000
_NOTE = """ms: milliseconds per token, median over pairs. The ratio: median over pairs, bootstrap over pairs; under 1 is
faster. Load average at begin and end: {begin:.2f}, {end:.2f}."""

Records = dict[int, list[Record]]  # by number of sessions
Systems = Annotated[list[str], typer.Option(metavar="POLICY...", help="Who is asked.")]
Sessions = Annotated[list[int], typer.Option(min=1, metavar="N...", help="Sessions.")]


@dataclass(frozen=True, kw_only=True)
class TurnOptions:
    """Who is asked, and how often."""

    systems: Systems = many("threshold:tau=0.02")
    concurrency: Sessions = many(1, 16)
    n: Annotated[int, typer.Option(min=1, help="Questions of one session.")] = 96
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of several sessions.")] = 16
    rounds: Annotated[int, typer.Option(min=1, help="Questions of each session in a block.")] = 2
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 400
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Records and rows.")] = None


@dataclass(frozen=True, slots=True)
class Begin:
    """What the report says of the machine before anything was asked."""

    provenance: dict[str, Any] = field(default_factory=provenance)
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])


async def ask(doors: Mapping[str, tuple[str, Credentials]], options: TurnOptions, console: Console) -> Records:
    """Asks all routers, named by `doors`, for each policy before the next one is asked for."""
    task, terms = load("tiny"), Terms(options.max_new_tokens)
    found: Records = {}
    async with AsyncExitStack() as held:
        clients = {
            name: await held.enter_async_context(AsyncClient(address, credentials=credentials))
            for name, (address, credentials) in doors.items()
        }
        for sessions in options.concurrency:
            num = options.n if sessions == 1 else options.blocks * sessions * options.rounds
            problems = load_data(task, split="dev", n=num).problems
            practice = load_data(task, split="calibration", n=max(_PRACTICE, sessions)).problems
            found[sessions] = []
            for name, spec in named_specs(options.systems).items():
                systems: list[System] = [
                    Served(f"{door}: {name}", client, spec, terms) for door, client in clients.items()
                ]
                plan = Plan(num, options.rounds)
                found[sessions] += await measure(systems, problems, Load(sessions), plan, practice=practice)
                console.print(f"{sessions} sessions, {name}: done")
    return found


def report(
    records: Records, base: str, columns: Columns, title: str, begin: Begin, options: TurnOptions, console: Console
) -> None:
    """Prints a row for each policy at each router but `base`, beside which it stands; writes `--json`."""
    rows = [row for sessions, found in records.items() for row in _rows(sessions, found, base)]
    console.print(terminal_table(title, columns, rows))
    end = os.getloadavg()[0]
    console.print(_NOTE.format(begin=begin.load_average, end=end), style="dim")
    if options.json:
        kept = {"provenance": begin.provenance, "rows": [{**row, "ratio": asdict(row["ratio"])} for row in rows]}
        kept["records"] = [asdict(record) for found in records.values() for record in found]
        options.json.write_text(json.dumps(kept) + "\n")


def _rows(sessions: int, records: Sequence[Record], base: str) -> list[Row]:
    by_system: dict[str, list[Record]] = {}
    for record in records:
        by_system.setdefault(record.system, []).append(record)
    rows: list[Row] = []
    for system, its in by_system.items():
        door, _, policy = system.partition(": ")
        if door != base:
            beside, own = ms_per_token(by_system[f"{base}: {policy}"]), ms_per_token(its)
            told = {"base": median(beside), "own": median(own), "ratio": median_ratio(own, beside)}
            rows.append({"sessions": sessions, "system": policy, "door": door, "pairs": len(own), **told})
    return rows


def ms_per_token(records: Sequence[Record]) -> list[float]:
    """Of each block: from its begin to its last answer, over its tokens."""
    blocks: dict[int, list[Record]] = {}
    for record in records:
        blocks.setdefault(record.block, []).append(record)
    return [
        max(record.start_s * 1000 + record.client_ms for record in block) / sum(record.num_tokens for record in block)
        for block in blocks.values()
    ]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The median ratio of pairs that were measured one after the other, and its 95% bootstrap interval."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    rng = random.Random(0)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(_DRAWS))
    return Ratio(median(ratios), medians[int(0.025 * _DRAWS)], medians[int(0.975 * _DRAWS)])
