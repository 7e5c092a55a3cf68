"""`bench checkouts`: the stack of another checkout beside this one's, on the same problems in turn.

Says by how much a change made whole answers slower, and how sure that is. Both stacks run all the time, each started by
its own code, and are asked block by block, first the one and then the other; one that is not asked rests. A pair is one
question where they come one at a time, else one block of all sessions. The checkout is a folder such as
`git worktree add ../before COMMIT` makes; this environment's packages serve both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

from rich.console import Console

from evals.asking.blocks import Plan, measure
from evals.asking.flags import positive
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.systems import Served, System, Terms, named_specs
from evals.figures.provenance import provenance
from evals.figures.ratio import Ratio
from evals.figures.report import Columns, Row, terminal_table
from evals.tasks.data import load_data
from evals.tasks.task import load
from rstitch.cli.progress import stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.local.part import ROOT, StackError

_SYSTEMS = ("llm_only", "slm_only", "threshold:tau=0.02")
_PRACTICE = 8
_DRAWS = 2000
_BEFORE, _NOW = "before: ", "now: "
_COLUMNS: Columns = {
    "sessions": "{sessions}",
    "system": "{system}",
    "pairs": "{pairs}",
    "ms before": "{before:.2f}",
    "ms now": "{now:.2f}",
    "now / before": "{ratio.value:.4f}",
    "95%": "[{ratio.low:.4f}, {ratio.high:.4f}]",
}
_NOTE = """ms: milliseconds per token, median over pairs. now / before: median over pairs of the ratio, bootstrap over
pairs; under 1 is faster. Load average at begin and end: {begin:.2f}, {end:.2f}."""
# What holds a stack of the folder that it runs in until its input ends.
_HOLD = """
import sys
from rstitch.local.stack import LocalStack, RouterOptions, WorkerOptions
slm, llm, threads = sys.argv[1:]
workers = [WorkerOptions(model, threads=int(threads)) for model in (slm, llm)]
with LocalStack(*workers, RouterOptions()) as stack:
    print(stack.router_address, flush=True)
    sys.stdin.read()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `bench checkouts` to its parser."""
    # fmt: off
    parser.add_argument("before", type=Path, metavar="DIR", help="the other checkout")
    parser.add_argument("--systems", nargs="+", default=list(_SYSTEMS), metavar="POLICY",
                        help=f"who is asked (default {' '.join(_SYSTEMS)})")
    parser.add_argument("--concurrency", type=positive, nargs="+", default=[1, 16], help="sessions (default 1 16)")
    parser.add_argument("--n", type=positive, default=96, help="questions of one session (default 96)")
    parser.add_argument("--blocks", type=positive, default=16, help="blocks of several sessions (default 16)")
    parser.add_argument("--rounds", type=positive, default=2, help="questions of each session in a block (default 2)")
    parser.add_argument("--max-new-tokens", type=positive, default=400, help="of an answer (default 400)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of each model (default 1)")
    parser.add_argument("--slm", default=str(ROOT / "models" / "tiny-slm"), metavar="DIR", help="default: the tiny one")
    parser.add_argument("--llm", default=str(ROOT / "models" / "tiny-llm"), metavar="DIR", help="default: the tiny one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="records and rows")
    # fmt: on


def run(options: argparse.Namespace) -> int:
    """Starts both stacks, asks, prints. Returns the exit code."""
    console, facts, begin = Console(), provenance(), os.getloadavg()[0]
    with stopped_by_signals(), ExitStack() as held:
        addresses = [held.enter_context(_held(folder, options)) for folder in (options.before, ROOT)]
        records = asyncio.run(_measure(addresses, options, console))
    rows = [row for sessions, found in records.items() for row in _rows(sessions, found)]
    console.print(terminal_table(f"{options.before} before, {ROOT} now", _COLUMNS, rows))
    console.print(_NOTE.format(begin=begin, end=os.getloadavg()[0]), style="dim")
    if options.json:
        kept = {"provenance": facts, "rows": [{**row, "ratio": asdict(row["ratio"])} for row in rows]}
        kept["records"] = [asdict(record) for found in records.values() for record in found]
        options.json.write_text(json.dumps(kept) + "\n")
    return 0


@contextmanager
def _held(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """A stack of a checkout's own code, in a process of its own. Gives the router's address. Raises StackError."""
    if not (folder / "rstitch" / "local" / "stack.py").is_file():
        raise StackError(f"{folder} is no checkout of rstitch.")
    command = [sys.executable, "-c", _HOLD, options.slm, options.llm, str(options.threads)]
    env = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    with subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise StackError(f"the stack of {folder} does not start.", remedy="It says why above.")
        yield address
        process.stdin.close()


async def _measure(addresses: Sequence[str], options: argparse.Namespace, console: Console) -> dict[int, list[Record]]:
    """All records, by number of sessions. Each system is asked in both checkouts before the next one is."""
    task, terms = load("tiny"), Terms(options.max_new_tokens)
    found: dict[int, list[Record]] = {}
    async with AsyncExitStack() as held:
        clients = [await held.enter_async_context(AsyncClient(address)) for address in addresses]
        for sessions in options.concurrency:
            num = options.n if sessions == 1 else options.blocks * sessions * options.rounds
            problems = load_data(task, split="dev", n=num).problems
            practice = load_data(task, split="calibration", n=max(_PRACTICE, sessions)).problems
            found[sessions] = []
            for name, spec in named_specs(options.systems).items():
                pair: list[System] = [
                    Served(which + name, client, spec, terms)
                    for which, client in zip((_BEFORE, _NOW), clients, strict=True)
                ]
                plan = Plan(num, options.rounds)
                found[sessions] += await measure(pair, problems, Load(sessions), plan, practice=practice)
                console.print(f"{sessions} sessions, {name}: done")
    return found


def _rows(sessions: int, records: Sequence[Record]) -> list[Row]:
    """One row per system: milliseconds per token of each pair, and their ratio."""
    rows: list[Row] = []
    for system in dict.fromkeys(record.system.removeprefix(_NOW) for record in records if _NOW in record.system):
        before, now = (ms_per_token([r for r in records if r.system == which + system]) for which in (_BEFORE, _NOW))
        told = {"before": median(before), "now": median(now), "ratio": median_ratio(now, before)}
        rows.append({"sessions": sessions, "system": system, "pairs": len(now), **told})
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
