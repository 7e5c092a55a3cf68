"""`bench drawing`: what sampling costs where the most probable tokens are sorted first, and where whole rows are.

Both in this process, on the same logits, a draw of one after a draw of the other; both give the same tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from evals.asking.values import Device, Threads, counts
from evals.bench import page
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from model_worker.engine.forward.inversion import FIRST, draw
from model_worker.engine.types import Sampling
from rstitch.local.part import default_threads

_SAMPLINGS = {
    "temperature 1": Sampling(1.0),
    "temperature 0.6, top_p 0.95": Sampling(0.6, top_p=0.95),
    "temperature 1, top_k 50": Sampling(1.0, top_k=50),
}
_COLUMNS: Columns = {
    "sampling": "{sampling}",
    "rows": "{rows}",
    "sorted whole ms": "{whole_ms:.2f}",
    "first sorted ms": "{first_ms:.2f}",
    "share": "{ratio[value]:.2f} [{ratio[low]:.2f}, {ratio[high]:.2f}]",
}


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench drawing`."""

    device: Device = "cpu"
    threads: Threads = field(default_factory=default_threads)
    vocab_size: Annotated[int, typer.Option(min=1, help="Of the logits; the default is Qwen2.5's.")] = 151_936
    rows: Annotated[Sequence[int], counts("Sessions that sample in a step.")] = (1, 16)
    rounds: Annotated[int, typer.Option(min=1, help="Of each number of rows.")] = 20


def run(options: Options) -> int:
    """Times both ways of drawing in turn, for each number of rows; returns the exit code."""
    torch.set_num_threads(options.threads)
    rows = [measure(name, count, options) for name in _SAMPLINGS for count in options.rows]
    console = Console()
    title = f"{options.vocab_size} tokens, {options.device}, {options.threads} threads, the first {FIRST} sorted"
    console.print(terminal_table(title, _COLUMNS, rows))
    page.finish(options, "drawing", {"rows": rows}, f"### {title}\n\n{markdown_table(_COLUMNS, rows)}\n\n", console)
    return 0


def measure(name: str, num_rows: int, options: Options) -> Row:
    """Times draws of logits of standard deviation 3: an entropy of some 4 nats, more than models mostly have."""
    device, generator = torch.device(options.device), torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(num_rows, options.vocab_size, generator=generator)).to(device)
    samplings = [_SAMPLINGS[name]] * num_rows
    times: dict[int, list[float]] = {0: [], FIRST: []}
    for index in range(options.rounds + 1):
        draws: list[float] = torch.rand(num_rows, generator=generator, dtype=torch.float64).tolist()
        found: list[Any] = []
        for first in times:
            begin = time.perf_counter()
            found.append(draw(logits, range(num_rows), samplings, draws, first))
            if index:  # the first round is the warm-up
                times[first].append(time.perf_counter() - begin)
        assert found[0][0] == found[1][0], "the same tokens either way"
    return {
        "sampling": name,
        "rows": num_rows,
        "whole_ms": 1000 * median(times[0]),
        "first_ms": 1000 * median(times[FIRST]),
        "ratio": asdict(ratio(times[FIRST], times[0])),
    }
