"""`bench penalties`: what choosing a token costs with penalties, with the answer counted as it grows, and each time.

Both in this process, on the same logits, in turn; both give the same tokens.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from evals.asking.values import Device, Threads, counts
from evals.bench import page
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from model_worker.engine.bookkeeping.token_counts import TokenCounts
from model_worker.engine.forward.sampling import Choices, choose
from model_worker.engine.types import Sampling
from rstitch.local.part import default_threads

_PENALTIES = Sampling(presence_penalty=0.5, frequency_penalty=0.1, repetition_penalty=1.1)
_COLUMNS: Columns = {
    "answer": "{length}",
    "different tokens": "{distinct}",
    "counted anew ms": "{anew_ms:.2f}",
    "counts kept ms": "{kept_ms:.2f}",
    "share": "{ratio[value]:.2f} [{ratio[low]:.2f}, {ratio[high]:.2f}]",
}


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench penalties`."""

    device: Device = "cpu"
    threads: Threads = field(default_factory=default_threads)
    vocab_size: Annotated[int, typer.Option(min=1, help="Of the logits; the default is Qwen2.5's.")] = 151_936
    lengths: Annotated[Sequence[int], counts("Tokens of an answer so far.")] = (1000, 8000, 32000)
    rounds: Annotated[int, typer.Option(min=1, help="Tokens chosen at each length.")] = 20


def run(options: Options) -> int:
    """Times both ways of counting in turn, at each length; returns the exit code."""
    torch.set_num_threads(options.threads)
    rows = [measure(length, options) for length in options.lengths]
    console = Console()
    title = f"greedy, one row, {options.vocab_size} tokens, {options.device}, {options.threads} threads"
    console.print(terminal_table(title, _COLUMNS, rows))
    page.finish(options, "penalties", {"rows": rows}, f"### {title}\n\n{markdown_table(_COLUMNS, rows)}\n\n", console)
    return 0


def measure(length: int, options: Options) -> Row:
    """Times the choice of tokens behind an answer that has each of its tokens about twice."""
    device, generator = torch.device(options.device), torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(1, options.vocab_size, generator=generator)).to(device)
    most = min(length // 2, options.vocab_size)
    tokens = array("I", torch.randint(0, max(most, 1), (length,), generator=generator).tolist())
    counts = TokenCounts(0)
    counts.until(tokens, length)
    times: dict[str, list[float]] = {"anew": [], "kept": []}
    for index in range(options.rounds + 1):
        found: list[int] = []
        for way, own in times.items():
            begin = time.perf_counter()
            found.append(_choose(logits, tokens, TokenCounts(0) if way == "anew" else counts))
            if index:  # the first round is the warm-up
                own.append(time.perf_counter() - begin)
        assert found[0] == found[1], "the same token either way"
        tokens.append(found[0])
    return {
        "length": length,
        "distinct": len(set(tokens)),
        **{f"{way}_ms": 1000 * median(own) for way, own in times.items()},
        "ratio": asdict(ratio(times["kept"], times["anew"])),
    }


def _choose(logits: Tensor, answer: array[int], counts: TokenCounts) -> int:
    position = len(answer)
    own = Choices([0], [0.0], [0.0])
    later = choose(lambda: own, logits, [0], [_PENALTIES], [position], lambda _: counts.until(answer, position))
    return later().tokens[0]
