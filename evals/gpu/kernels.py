"""Our kernels on a device: how far from float64, and how long beside the time that their memory takes to read.

Usage: `python -m evals.gpu.kernels --device cuda:0`. On a CPU they run in Triton's interpreter (TRITON_INTERPRET=1),
which shows errors and no times.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from torch import Tensor

from evals.asking.values import Device, JsonFile
from evals.commands import run_program
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.gpu.clock import copy_bandwidth, microseconds
from model_worker.engine.forward.attention_tables import Tables
from model_worker.engine.forward.kernels.availability import why_not
from rstitch.errors import invalid

# Query heads, key heads and head size of Qwen2.5 1.5B, 7B and 32B.
_HEADS = ((12, 2, 128), (28, 4, 128), (40, 8, 128))
# New tokens of each row, and the keys that it sees then: decoding, many, a catch-up, a prompt.
_BATCHES: tuple[tuple[list[int], int], ...] = (
    ([1], 512),
    ([1], 8192),
    ([1] * 16, 1024),
    ([1] * 64, 1024),
    ([16], 2048),
    ([512], 512),
)
_DRY_HEADS, _DRY_BATCHES = ((4, 2, 64),), (([1], 40), ([3, 1], 33))
_COLUMNS: Columns = {
    "kernel": "{kernel}",
    "of": "{of}",
    "error": "{error:.1e}",
    "us": "{us:.1f}",
    "floor us": "{floor:.1f}",
    "of floor": lambda row: f"{row['floor'] / row['us']:.0%}" if row["us"] else "",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `python -m evals.gpu.kernels`."""

    device: Device = "cuda:0"
    json: JsonFile = None


def run(options: Options) -> int:
    """Compares every kernel with float64 and with the bandwidth; `--json` keeps what the page needs."""
    device, console = torch.device(options.device), Console()
    if why := why_not(device, torch.float32):
        raise invalid("--device", f"{why}.", "On a CPU set TRITON_INTERPRET=1, with Triton installed.")
    dry = device.type != "cuda"
    if not dry:
        torch.cuda.set_device(device)
    with torch.inference_mode():
        bandwidth = copy_bandwidth(device, 1 << (20 if dry else 30))
        rows = [*_attention(device, bandwidth, dry), *_measuring(device, bandwidth, dry)]
    console.print(terminal_table(f"copy bandwidth {bandwidth / 1e9:.0f} GB/s", _COLUMNS, rows))
    if options.json is not None:
        text = [f"Copy bandwidth {bandwidth / 1e9:.0f} GB/s.", markdown_table(_COLUMNS, rows)]
        options.json.write_text(json.dumps({"copy_bandwidth_gb_s": bandwidth / 1e9, "rows": rows, "text": text}))
    return 0


def _attention(device: torch.device, bandwidth: float, dry: bool) -> Iterator[Row]:
    from model_worker.engine.forward.kernels.paged_attention import paged_attention

    dtype = torch.float32 if dry else torch.bfloat16
    page_size = 16 if dry else 256
    for heads, kv_heads, dim in _DRY_HEADS if dry else _HEADS:
        for counts, length in _DRY_BATCHES if dry else _BATCHES:
            query, keys, values, tables = _batch(device, counts, length, heads, kv_heads, dim, page_size, dtype)
            found = paged_attention(query, keys, values, tables, page_size).double()
            exact = _exact_attention(query, keys, values, tables, page_size)
            us = microseconds(partial(paged_attention, query, keys, values, tables, page_size), device)
            yield {
                "kernel": "attention",
                "of": f"{heads}/{kv_heads} heads, {len(counts)} x {max(counts)} of {length}",
                "error": float((found - exact).norm() / exact.norm()),
                "us": us,
                "floor": 1e6 * len(counts) * length * kv_heads * dim * 2 * keys.itemsize / bandwidth,
            }


def _batch(
    device: torch.device,
    counts: Sequence[int],
    length: int,
    heads: int,
    kv_heads: int,
    dim: int,
    page_size: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tables]:
    """Rows of `counts` new tokens that see `length` keys each, on pages in any order; unwritten slots hold NaN."""
    generator = torch.Generator().manual_seed(0)
    width = -(-length // page_size)
    num_pages = len(counts) * width + 1
    pages = torch.randperm(num_pages, generator=generator)[: len(counts) * width].view(len(counts), width)
    keys, values = (torch.randn(num_pages * page_size, kv_heads, dim, device=device).to(dtype) for _ in "kv")
    for page in pages[:, -1].tolist():
        unwritten = slice(page * page_size + length - (width - 1) * page_size, (page + 1) * page_size)
        keys[unwritten] = values[unwritten] = float("nan")
    tables = Tables(
        slots=torch.zeros(sum(counts), dtype=torch.int64, device=device),
        ends=torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32),
        lengths=torch.full([len(counts)], length, dtype=torch.int32, device=device),
        pages=pages.to(device, torch.int32),
        max_queries=max(counts),
        max_keys=length,
    )
    return torch.randn(sum(counts), heads, dim, device=device).to(dtype), keys, values, tables


def _exact_attention(query: Tensor, keys: Tensor, values: Tensor, tables: Tables, page_size: int) -> Tensor:
    """The same in float64, row by row, with nothing of ours."""
    out = torch.zeros(query.shape, dtype=torch.float64, device=query.device)
    group = query.shape[1] // keys.shape[1]
    ends, lengths = tables.ends.tolist(), tables.lengths.tolist()
    for row, length in enumerate(lengths):
        slots = (tables.pages[row].long()[:, None] * page_size + torch.arange(page_size, device=query.device)).flatten()
        k, v = (cache[slots[:length]].double().repeat_interleave(group, 1) for cache in (keys, values))
        own = query[ends[row] : ends[row + 1]].double()
        scores = torch.einsum("qhd,khd->hqk", own, k) * query.shape[2] ** -0.5
        places = torch.arange(length - len(own), length, device=query.device)
        unseen = torch.arange(length, device=query.device)[None] > places[:, None]
        weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
        out[ends[row] : ends[row + 1]] = torch.einsum("hqk,khd->qhd", weights, v)
    return out


def _measuring(device: torch.device, bandwidth: float, dry: bool) -> Iterator[Row]:
    from model_worker.engine.forward.kernels.measuring import measure_fused

    # Rows, their stride and the tokenizer's vocabulary: that of Qwen2.5.
    shapes = ((2, 9008, 9001),) if dry else ((1, 151936, 151665), (16, 152064, 151665), (64, 152064, 151665))
    for num_rows, width, vocab in shapes:
        logits = (torch.randn(num_rows, width, device=device) * 4).to(torch.float32 if dry else torch.bfloat16)
        own = logits[:, :vocab]
        tokens, entropies, _ = measure_fused(own).double()
        exact = own.double().log_softmax(-1)
        wrong = int((tokens.long() != own.float().argmax(-1)).sum())
        error = float((entropies - torch.special.entr(exact.exp()).sum(-1)).abs().max())
        yield {
            "kernel": "measuring",
            "of": f"{num_rows} x {vocab}" + (f", {wrong} OTHER TOKENS" if wrong else ""),
            "error": error,
            "us": microseconds(partial(measure_fused, own), device),
            "floor": 1e6 * num_rows * vocab * logits.itemsize / bandwidth,
        }


if __name__ == "__main__":
    sys.exit(run_program("python -m evals.gpu.kernels", __doc__, run, Options))
