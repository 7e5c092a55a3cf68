"""`rstitch eval list`: the tasks that come with the package."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from evals.tasks.task import load, names

_CHECKS = {
    "math": "checked by math-verify",
    "boxed": "checked as text",
    "exact": "checked as text",
    "generator": "checked by its own rule",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `rstitch eval list`."""

    json: Annotated[bool, typer.Option("--json", help="As JSON, with all fields.")] = False


def run(options: Options) -> int:
    """Prints two lines and a name for each. Returns the exit code."""
    tasks = [load(name) for name in names()]
    if options.json:
        json.dump([task.model_dump() for task in tasks], sys.stdout)
        sys.stdout.write("\n")
        return 0
    console = Console(highlight=False)
    for task in tasks:
        source = task.hub.dataset if task.hub else task.generator.problems if task.generator else "--data FILE"
        about = (
            f"{task.title}\n{_CHECKS.get(task.check, task.check)}, at most {task.max_new_tokens} tokens, from {source}"
        )
        console.print(task.name, style="bold", markup=False)
        console.print(Padding(Text(about), (0, 0, 0, 4)))
    return 0
