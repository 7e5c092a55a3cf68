"""`bench checkouts`: the stack of another checkout beside this one's, on the same problems in turn.

Says by how much a change made whole answers slower, and how sure that is. Each stack is started by its own code. The
checkout is a folder such as `git worktree add ../before COMMIT` makes; this environment's packages serve both.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evals.bench import in_turn
from evals.figures.report import Columns
from evals.options import many
from rstitch.cli.progress import stopped_by_signals
from rstitch.credentials import Credentials
from rstitch.local.part import ROOT, StackError

_BEFORE, _NOW = "before", "now"
_COLUMNS: Columns = {
    "sessions": "{sessions}",
    "system": "{system}",
    "pairs": "{pairs}",
    "ms before": "{base:.2f}",
    "ms now": "{own:.2f}",
    "now / before": "{ratio.value:.4f}",
    "95%": "[{ratio.low:.4f}, {ratio.high:.4f}]",
}
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


@dataclass(frozen=True, kw_only=True)
class Options(in_turn.TurnOptions):
    """The options of `bench checkouts`."""

    before: Annotated[Path, typer.Argument(metavar="DIR", help="The other checkout.")]
    systems: in_turn.Systems = many("llm_only", "slm_only", "threshold:tau=0.02")
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each model.")] = 1
    slm: Annotated[str, typer.Option(metavar="DIR", show_default="the tiny one")] = str(ROOT / "models" / "tiny-slm")
    llm: Annotated[str, typer.Option(metavar="DIR", show_default="the tiny one")] = str(ROOT / "models" / "tiny-llm")


def run(options: Options) -> int:
    """Starts both stacks, asks, prints. Returns the exit code."""
    console = Console()
    begin = in_turn.Begin()
    with stopped_by_signals(), ExitStack() as held:
        folders = {_BEFORE: options.before, _NOW: ROOT}
        doors = {name: (held.enter_context(_held(folder, options)), Credentials()) for name, folder in folders.items()}
        records = asyncio.run(in_turn.ask(doors, options, console))
    in_turn.report(records, _BEFORE, _COLUMNS, f"{options.before} before, {ROOT} now", begin, options, console)
    return 0


@contextmanager
def _held(folder: Path, options: Options) -> Iterator[str]:
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
