"""Commands that are programs of the repository: they need torch and more, so they run as processes of their own.

Nothing of them is imported here. Each parses its own flags, and its --help is its own.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import typer

from rstitch.cli.common import FAILED, command, err, print_error
from rstitch.credentials import Credentials

_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@dataclass(frozen=True, slots=True)
class Tool:
    """A command, the module that is run for it, and the packages that this one imports.

    `instead` is the new word of a command that keeps its old one, hidden, for one release.
    """

    name: str
    module: str
    needed: tuple[str, ...]
    help: str
    instead: str = ""


_MODELS = ("evals", "torch", "transformers", "scipy")
_LATENCY = Tool(
    "latency", "evals.latency", (*_MODELS, "matplotlib"), "Times the models' calls and fits the latency model."
)
TOOLS = (
    Tool("keys", "router_svc.access", ("router_svc",), "Makes, rotates and revokes the keys that callers show."),
    Tool("ray", "launching", ("launching", "ray", "redis"), "Puts a fleet on a Ray cluster; restarts and scales it."),
    Tool("bench", "evals.bench", (*_MODELS, "matplotlib", "redis"), "Measures speed beside what else there is."),
    Tool("calibrate", "evals.calibrate", _MODELS, "Finds the policy's parameter for a share, a loss or a speed-up."),
    _LATENCY,
    Tool("profile", _LATENCY.module, _LATENCY.needed, _LATENCY.help, instead="latency"),
    Tool("pairs", "evals.pairs", (*_MODELS, "matplotlib", "redis"), "Predicts which SLM suits an LLM, and checks it."),
    Tool("fits", "evals.fits", ("evals", "torch", "transformers", "pandas"), "Says which pair fits on which cards."),
    Tool(
        "plan",
        "evals.plan",
        (*_MODELS, "pandas", "matplotlib"),
        "Says how many workers a load takes, and how fast it is.",
    ),
    Tool(
        "train-head",
        "training.head",
        ("training", *_MODELS, "matplotlib", "math_verify"),
        "Trains a head of R-Stitch+ for a pair and a task.",
    ),
    Tool(
        "eval", "evals.evaluation", (*_MODELS, "matplotlib", "math_verify"), "Asks systems a task's problems; reports."
    ),
)


def add_tools(app: typer.Typer) -> None:
    """Gives `app` a command for each tool."""
    for tool in TOOLS:
        described = f"{tool.help} See rstitch {tool.name} --help."
        app.command(tool.name, help=described, hidden=bool(tool.instead), context_settings=_SETTINGS)(_command(tool))


def _command(tool: Tool) -> Callable[[typer.Context], None]:
    @command
    def run(context: typer.Context, access: Credentials = Credentials()) -> None:
        if tool.instead:
            err().print(f"note: rstitch {tool.name} is now rstitch {tool.instead}", style="yellow", soft_wrap=True)
        missing = [package for package in tool.needed if importlib.util.find_spec(package) is None]
        if missing:
            names = " and ".join(missing)
            print_error(
                f"rstitch {tool.name} needs {names}. Run it from a clone of the repository, after `make setup`."
            )
            raise typer.Exit(FAILED)
        # -P: the folder one stands in may have packages of these names.
        raise typer.Exit(_exit_code_of([sys.executable, "-P", "-m", tool.module, *context.args], access))

    return run


def _exit_code_of(arguments: Sequence[str], access: Credentials) -> int:
    """Runs a program to its end. A signal to stop is for the program, which takes its time to stop what it started.

    How a router lets it in is in its environment, which others on the machine do not see.
    """
    child = subprocess.Popen(arguments, env={**os.environ, **access.as_environment()})
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),  # a terminal sends it to both
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: child.terminate()),
    }
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
