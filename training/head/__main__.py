"""`rstitch train-head`, or `python -m training.head`: a head of R-Stitch+ for a pair and a task."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from training.commands import run
from training.head.flags import Flags

ABOUT = """Trains the head of R-Stitch+ for a pair, on questions with answers.

Stages, each of which goes on where it was after any kill: questions (split by their hash), the latency model, the LLM
and the SLM alone, a warm start, DAPO with the price of a millisecond, a look at dev, the files: weights, card, curves.
The test split is never looked at.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, chooses, writes; returns the exit code: 2 for bad input, 1 for other failures."""
    return run(_train_head, "rstitch train-head", ABOUT, arguments)


def _train_head(flags: Flags) -> None:
    from training.head.command import train  # with torch, which the help does not need

    train(flags)


if __name__ == "__main__":
    sys.exit(main())
