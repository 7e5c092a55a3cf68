"""`rstitch eval COMMAND`, or `python -m evals.evaluation COMMAND`: how good the answers of each system are."""

from __future__ import annotations

import sys

from evals.commands import run_command

COMMANDS = {
    "run": "ask each system each problem; one line per answer in a file that can be gone on with",
    "report": "accuracy, latency, tokens and switches of a run, each beside LLM-only",
    "plot": "frontiers of accuracy over latency and over the LLM's share; entropies by model",
    "hurt": "where LLM-only was right and a routed answer wrong, as coloured traces",
    "harmful": "the first token that turned an answer wrong, and the entropy around it",
    "list": "the tasks",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 2 for bad input, 1 for other failures."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command("rstitch eval", __doc__, "evals.evaluation", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
