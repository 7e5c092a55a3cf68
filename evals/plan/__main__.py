"""`rstitch plan COMMAND`, or `python -m evals.plan COMMAND`: how large a fleet has to be. By itself: `workers`."""

from __future__ import annotations

import sys

from evals.commands import run_command

COMMANDS = {
    "workers": "how many workers, routers and gateways a load takes, and how long answers then take (default)",
    "simulate": "a fleet of a thousand workers and some routers, event by event, placed by the routers' own code",
    "check": "what is predicted beside what is measured, of the pair that runs here at three loads",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["workers", *arguments]
    return run_command("rstitch plan", "Says how large a fleet has to be.", "evals.plan", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
