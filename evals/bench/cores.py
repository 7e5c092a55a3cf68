"""`bench cores`: what a step of one engine takes with a worker's share of the threads, and with all of them, in turn.

That is what `--share-cores` chooses between before each step. Set OMP_WAIT_POLICY=PASSIVE, as a local stack does for
its workers: threads that spin while they wait take the cores from those that compute.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console

from evals.asking.values import counts
from evals.bench import page
from evals.bench.shapes import SHAPES, make_pair, shape_or_folder
from evals.bench.stepping import BLOCK, Ours
from evals.figures.ratio import quiet, ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from model_worker.engine.forward.loader import load
from model_worker.engine.types import Limits
from rstitch.local.part import default_threads

_CONTEXT = 128  # tokens of a session before those that are timed
_COLUMNS: Columns = {
    "rows": "{rows}",
    "share ms": "{share_ms:.2f}",
    "all ms": "{all_ms:.2f}",
    "share over all": "{ratio[value]:.2f} [{ratio[low]:.2f}, {ratio[high]:.2f}]",
    "fastest tenth": "{quiet_ratio:.2f}",
    "CPU time, all over share": "{cpu_ratio:.2f}",
}


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench cores`."""

    shape: Annotated[
        str, typer.Option(parser=shape_or_folder, metavar="NAME|DIR", help=f"Of {', '.join(SHAPES)}, or a folder.")
    ] = "tiny-50m"
    threads: Annotated[int, typer.Option(min=1, help="A worker's share of the threads.")] = field(
        default_factory=default_threads
    )
    all_threads: Annotated[int, typer.Option(min=1, help="All threads.", show_default="the cores")] = field(
        default_factory=lambda: len(os.sched_getaffinity(0))
    )
    rows: Annotated[Sequence[int], counts("Sessions that decode in a step.")] = (1, 4)
    rounds: Annotated[int, typer.Option(min=1, help=f"Of {BLOCK} steps with each.")] = 20


def run(options: Options) -> int:
    """Times steps with either number of threads in turn, for each number of rows; returns the exit code."""
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    ours = _engine(options.shape, max(options.rows))
    rows = [measure(ours, count, options) for count in options.rows]
    console = Console()
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    title = (
        f"{Path(options.shape).name}, float32, {options.threads} of {options.all_threads} threads, wait policy {policy}"
    )
    console.print(terminal_table(title, _COLUMNS, rows))
    page.finish(options, "cores", {"rows": rows}, f"### {title}\n\n{markdown_table(_COLUMNS, rows)}\n\n", console)
    return 0


def measure(ours: Ours, num_rows: int, options: Options) -> Row:
    """Times blocks of decode steps of so many sessions, one with each number of threads after the other."""
    seconds: dict[int, list[float]] = {options.threads: [], options.all_threads: []}
    cpu = dict.fromkeys(seconds, 0.0)
    for index in range(options.rounds + 1):
        for num_threads in seconds:
            torch.set_num_threads(num_threads)
            ours.begin(num_rows, [1], 4 * BLOCK)
            ours.step()
            for _ in range(BLOCK):
                begin, cpu_begin = time.perf_counter(), time.process_time()
                ours.step()
                if index:  # the first round is the warm-up
                    seconds[num_threads].append(time.perf_counter() - begin)
                    cpu[num_threads] += time.process_time() - cpu_begin
            ours.end()
    share, everything = seconds[options.threads], seconds[options.all_threads]
    return {
        "rows": num_rows,
        "share_ms": 1000 * median(share),
        "all_ms": 1000 * median(everything),
        "ratio": asdict(ratio(share, everything, BLOCK)),
        "quiet_ratio": quiet(share) / quiet(everything),
        "cpu_ratio": cpu[options.all_threads] / cpu[options.threads],
    }


def _engine(shape: str, num_sessions: int) -> Ours:
    with tempfile.TemporaryDirectory(prefix="rstitch-cores-") as folder:
        served, _ = make_pair(shape, shape, Path(folder))
        seed = None if served.has_weights else 0
        loaded = load(str(served.folder), torch.float32, torch.device("cpu"), random_weights=seed)
    length = _CONTEXT + 4 * BLOCK
    limits = Limits(loaded.num_logits, length, num_sessions * math.ceil(length / 16))
    ours = Ours(loaded, limits)
    ours.prefill(num_sessions, [7 * index % loaded.num_logits for index in range(_CONTEXT)])
    return ours
