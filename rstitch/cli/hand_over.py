"""Commands that hand over to a program of the repository, which this one does not import: it needs torch and more."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Sequence

import typer

from rstitch.cli.common import FAILED, print_error

# The program parses its own flags, and its --help is its own.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def hand_over(name: str, module: str, needed: Sequence[str], arguments: Sequence[str]) -> typer.Exit:
    """Runs `python -m module` to its end. Returns: what to raise, with its exit code or ours."""
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        print_error(
            f"rstitch {name} needs {' and '.join(missing)}. Run it from a clone after `make setup`, "
            "or `pip install 'rstitch[evals,local]'`."
        )
        return typer.Exit(FAILED)
    # -P: the folder one stands in may have packages of these names.
    return typer.Exit(_run([sys.executable, "-P", "-m", module, *arguments]))


def _run(arguments: list[str]) -> int:
    """Its exit code. A signal to stop is for the child, which takes its time to stop what it has started."""
    child = subprocess.Popen(arguments)
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
