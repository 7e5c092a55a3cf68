"""`rstitch bench`: hands over to `evals.bench`, which this program does not import: it needs torch and more."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys

import typer

from rstitch.cli.common import FAILED, command, print_error

# Its --help is that of evals.bench.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

_NEEDED = ("evals", "torch", "transformers", "matplotlib", "redis")


@command
def bench(context: typer.Context) -> None:
    """Measures speed beside what else there is: see rstitch bench --help."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print_error(
            f"rstitch bench needs {' and '.join(missing)}. Run it from a clone after `make setup`, "
            "or `pip install 'rstitch[evals,local]'`."
        )
        raise typer.Exit(FAILED)
    # -P: the folder one stands in may have an evals of its own.
    raise typer.Exit(_run([sys.executable, "-P", "-m", "evals.bench", *context.args]))


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
