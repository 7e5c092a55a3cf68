"""`bench products`: what matrix products in bfloat16 take on a CPU by our own kernel, beside torch's own.

Both in this process, on the same rows and weights, one after the other; both give the same but for rounding.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from statistics import median

import torch
from rich.console import Console
from torch import nn

from evals.asking.flags import positive, positives
from evals.bench import page
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.matmul_native import NativeMatmul
from rstitch.local.part import default_threads

_COLUMNS: Columns = {
    "weight": "{outputs} x {inputs}",
    "rows": "{rows}",
    "torch ms": "{torch_ms:.2f}",
    "native ms": "{native_ms:.2f}",
    "torch over native": "{ratio[value]:.2f} [{ratio[low]:.2f}, {ratio[high]:.2f}]",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which weights and how many rows are multiplied, and how often."""
    # fmt: off
    parser.add_argument("--threads", type=positive, default=default_threads(), help="CPU threads of torch")
    parser.add_argument("--outputs", type=positives, default=[8960, 1536, 256],
                        help="of the weights (default 8960,1536,256, of Qwen2.5-1.5B; its LM head has 151936)")
    parser.add_argument("--inputs", type=positives, default=[1536, 8960, 1536], help="of each (default 1536,8960,1536)")
    parser.add_argument("--rows", type=positives, default=[1, 2, 4, 8, 16, 64], help="default 1,2,4,8,16,64")
    parser.add_argument("--rounds", type=positive, default=7, help="of each number of rows (default 7)")
    # fmt: on
    page.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Times both products in turn, for each weight and number of rows; returns the exit code."""
    if len(options.outputs) != len(options.inputs):
        raise SystemExit("bench products: --outputs and --inputs should have as many entries: one of each a weight")
    torch.set_num_threads(options.threads)
    try:
        native = NativeMatmul()
    except UnsupportedModel as error:
        raise SystemExit(f"bench products: {error}") from error
    shapes = zip(options.outputs, options.inputs, strict=True)
    rows = [row for outputs, inputs in shapes for row in measure(native, outputs, inputs, options)]
    console = Console()
    title = f"bfloat16, cpu, {options.threads} threads"
    console.print(terminal_table(title, _COLUMNS, rows))
    page.finish(options, "products", {"rows": rows}, f"### {title}\n\n{markdown_table(_COLUMNS, rows)}\n\n", console)
    return 0


@torch.inference_mode()
def measure(native: NativeMatmul, outputs: int, inputs: int, options: argparse.Namespace) -> list[Row]:
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
