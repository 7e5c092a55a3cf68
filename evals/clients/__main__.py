"""`python -m evals.clients COMMAND`: programs that others wrote, before a stack of our own. See `make examples`."""

from __future__ import annotations

import sys

from evals.commands import run_command

COMMANDS = {
    "examples": "every program in examples/, and where our own fields come through in each client",
    "conformance": "public suites: OpenAI's own tests and description, load and evaluation tools",
}


def main() -> int:
    """Runs a command; returns the exit code."""
    summary = "Runs clients and suites of others before the gateway."
    return run_command("python -m evals.clients", summary, "evals.clients", COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
