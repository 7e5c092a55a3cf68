"""What asking a head costs: `python -m training.head.studies.cost [FILE]`, microseconds per call on one thread."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from rich.console import Console

from rstitch.local.part import ROOT
from rstitch.service.head import Head


def cost_us(head: Head, num_calls: int) -> tuple[float, float]:
    """Median and 99th percentile of single calls on random states."""
    rng = np.random.default_rng(0)
    states = [rng.normal(size=head.facts.hidden_size).astype("<f4").tobytes() for _ in range(64)]
    times = np.empty(num_calls)
    for index in range(-num_calls // 10, num_calls):  # the first warm up, and are overwritten
        began = time.perf_counter()
        head.wants_llm(states[index % len(states)], 100)
        times[index] = time.perf_counter() - began
    return float(np.median(times) * 1e6), float(np.percentile(times, 99) * 1e6)


def main() -> None:
    """Times consultations of a head and prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m training.head.studies.cost", description=__doc__)
    default = ROOT / "models/heads/tiny/head.safetensors"
    parser.add_argument("file", nargs="?", type=Path, default=default, help="default models/heads/tiny")
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args()
    head = Head.from_bytes(options.file.read_bytes())
    median, tail = cost_us(head, options.calls)
    sizes = " x ".join(map(str, head.sizes))
    Console().print(f"MLP {sizes}: {median:.1f} us a consultation (99%: {tail:.1f} us), {options.calls:,} calls")


if __name__ == "__main__":
    main()
