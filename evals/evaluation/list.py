"""`rstitch eval list`: the tasks that come with the package."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from evals.tasks.task import load, names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rstitch eval list`."""
    parser.description = __doc__
    parser.add_argument("--json", action="store_true", help="as JSON, with all fields")


def run(options: argparse.Namespace) -> int:
    """Prints them. Returns the exit code."""
    tasks = [load(name) for name in names()]
    if options.json:
        json.dump([task.model_dump() for task in tasks], sys.stdout)
        sys.stdout.write("\n")
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("task", "checked by", "new tokens", "from", "problems"):
        table.add_column(name, justify="right" if name == "new tokens" else "left", no_wrap=name != "problems")
    for task in tasks:
        source = task.hub.dataset if task.hub else task.generator.problems if task.generator else "--data FILE"
        check = {"math": "math-verify", "code": "its tests", "generator": "its own check"}[task.check]
        table.add_row(task.name, check, str(task.max_new_tokens), source, task.title)
    Console(highlight=False).print(table)
    return 0
