"""`rstitch bench COMMAND`, or `python -m evals.bench COMMAND`: measures speed. Without a command: `run`."""

from __future__ import annotations

import sys

from evals.commands import run_command

COMMANDS = {
    "run": "the systems side by side: latency, throughput, accuracy, where the time of a token goes (default)",
    "engine": "an engine's step by batch and context, beside a bare transformers forward",
    "prefix": "answers that begin alike, with their beginning computed once and each for itself",
    "switch": "what a switch costs by the length of the catch-up",
    "replay": "models of any size with random weights, routed by recorded traces",
    "drawing": "what sampling a token costs, beside sorting its whole distribution",
    "penalties": "what a token costs with penalties, by the length of the answer that they look at",
    "schemas": "what a token of an answer by a JSON schema costs, beside one that is held to nothing",
    "store": "whether pages, reading, claims and appends stay as fast with 100,000 stored trajectories as with 100",
    "cores": "what a step takes with a worker's share of the CPU threads, and with all of them",
    "products": "matrix products in bfloat16 on a CPU, by our own kernel and by torch",
    "quantized": "what --quantize costs in answers, and gives in memory and speed",
    "invariance": "what --batch-invariant keeps and what it costs, in an engine with it and one without",
    "checkouts": "the stack of another checkout beside this one, on the same problems in turn: what a change costs",
    "security": "what keys and quotas of the router cost, beside one without, on the same workers in turn",
    "alike": "whether the LLM alone says what another OpenAI server says that has the same model",
    "http": "what the HTTP gateway costs, beside the router behind it, in turn",
    "routers": "what a token costs a router, and how much more two routers carry, with workers that cost nothing",
    "overhead": "what a token and a switch cost outside the forwards, beside a bare loop",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    return run_command(
        "rstitch bench", "Measures speed, in one run on one machine.", "evals.bench", COMMANDS, arguments
    )


if __name__ == "__main__":
    sys.exit(main())
