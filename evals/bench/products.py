"""`bench products`: what matrix products in bfloat16 take on a CPU by our own kernel, beside torch's own.

Both in this process, on the same rows and weights, one after the other; both give the same but for rounding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn

from evals.asking.values import Threads, counts
from evals.bench import page
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.matmul_native import NativeMatmul
from rstitch.errors import invalid
from rstitch.local.part import StackError, default_threads

_COLUMNS: Columns = {
    "weight": "{outputs} x {inputs}",
    "rows": "{rows}",
    "torch ms": "{torch_ms:.2f}",
    "native ms": "{native_ms:.2f}",
    "torch over native": "{ratio[value]:.2f} [{ratio[low]:.2f}, {ratio[high]:.2f}]",
}


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench products`."""

    threads: Threads = field(default_factory=default_threads)
    outputs: Annotated[
        Sequence[int],
        counts("Of the weights; the default is Qwen2.5-1.5B's, whose LM head has 151936."),
    ] = (8960, 1536, 256)
    inputs: Annotated[Sequence[int], counts("Of each.")] = (1536, 8960, 1536)
    rows: Annotated[Sequence[int], counts("Rows of a product.")] = (1, 2, 4, 8, 16, 64)
    rounds: Annotated[int, typer.Option(min=1, help="Of each number of rows.")] = 7


def run(options: Options) -> int:
    """Times both products in turn, for each weight and number of rows; returns the exit code."""
    if len(options.outputs) != len(options.inputs):
        raise invalid("--inputs", "there are not as many as --outputs.", "Give one of each for a weight.")
    torch.set_num_threads(options.threads)
    try:
        native = NativeMatmul()
    except UnsupportedModel as error:
        raise StackError(str(error)) from error
    shapes = zip(options.outputs, options.inputs, strict=True)
    rows = [row for outputs, inputs in shapes for row in measure(native, outputs, inputs, options)]
    console = Console()
    title = f"bfloat16, cpu, {options.threads} threads"
    console.print(terminal_table(title, _COLUMNS, rows))
    page.finish(options, "products", {"rows": rows}, f"### {title}\n\n{markdown_table(_COLUMNS, rows)}\n\n", console)
    return 0


@torch.inference_mode()
def measure(native: NativeMatmul, outputs: int, inputs: int, options: Options) -> list[Row]:
    """Times products with one weight, by number of rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator).to(torch.bfloat16)
    made: list[Row] = []
    for count in options.rows:
        x = torch.randn(count, inputs, generator=generator).to(torch.bfloat16)
        times: dict[str, list[float]] = {"torch": [], "native": []}
        for index in range(options.rounds + 1):
            results = []
            for name, product in (("torch", nn.functional.linear), ("native", native)):
                begin = time.perf_counter()
                results.append(product(x, weight, None))
                if index:  # the first round is the warm-up
                    times[name].append(time.perf_counter() - begin)
            # An entry near zero has lost its digits by cancellation: the scale is that of the row.
            torch.testing.assert_close(results[1], results[0], rtol=2e-2, atol=1e-2 * inputs**0.5)
        made.append(
            {
                "outputs": outputs,
                "inputs": inputs,
                "rows": count,
                **{f"{name}_ms": 1000 * median(seconds) for name, seconds in times.items()},
                "ratio": asdict(ratio(times["torch"], times["native"])),
            }
        )
    return made
