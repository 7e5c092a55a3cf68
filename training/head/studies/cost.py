"""What asking a head costs: `python -m training.head.studies.cost [FILE]`, microseconds per call on one thread."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import typer
from rich.console import Console

from rstitch.local.part import ROOT
from rstitch.service.head import Head
from rstitch.service.head_features import Situation, numbers
from training.commands import run

_BUNDLED = ROOT / "models/heads/tiny/head.safetensors"


def cost_us(head: Head, num_calls: int) -> tuple[float, float]:
    """Median and 99th percentile of single calls on random states."""
    rng = np.random.default_rng(0)
    states = [rng.normal(size=head.facts.hidden_size).astype("<f4").tobytes() for _ in range(64)]
    features = numbers(head.facts.features, Situation())
    times = np.empty(num_calls)
    for index in range(-num_calls // 10, num_calls):  # the first warm up, and are overwritten
        began = time.perf_counter()
        head.wants_llm(states[index % len(states)], 100, features)
        times[index] = time.perf_counter() - began
    return float(np.median(times) * 1e6), float(np.percentile(times, 99) * 1e6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Times consultations of a head and prints the figures; returns the exit code."""
    return run(_cost, "python -m training.head.studies.cost", __doc__, arguments)


def _cost(
    file: Annotated[Path, typer.Argument(exists=True, help="A head.", show_default="models/heads/tiny")] = _BUNDLED,
    calls: Annotated[int, typer.Option(help="How many are timed.")] = 20_000,
) -> None:
    head = Head.from_bytes(file.read_bytes())
    median, tail = cost_us(head, calls)
    sizes = " x ".join(map(str, head.sizes))
    Console().print(f"MLP {sizes}: {median:.1f} us a consultation (99%: {tail:.1f} us), {calls:,} calls")


if __name__ == "__main__":
    sys.exit(main())
