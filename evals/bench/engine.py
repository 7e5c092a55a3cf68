"""`bench engine`: what a step of our engine takes beside a bare cached `transformers` forward, and where the rest goes.

Both run in this process, on the same weights, a step of one after a step of the other: whatever else the machine does
then slows both, and the ratio stays. A step of the engine schedules, computes, measures entropy and samples; a bare
forward computes the logits of the last position. Variants of the engine's limits can be measured in the same turns.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any, get_args, get_type_hints

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import Progress

from evals.asking.values import Device, Dtype, Threads, counts
from evals.bench import engine_tables, page
from evals.bench.shapes import SHAPES, make_pair, shape_or_folder
from evals.bench.stepping import BLOCK, Contest, Ours
from evals.figures.progress import progress_bar
from evals.figures.provenance import ROOT
from evals.options import many
from model_worker.engine.forward.attention_choice import default_page_size
from model_worker.engine.forward.loader import load
from model_worker.engine.types import Limits
from model_worker.tokenizer import load_tokenizer
from rstitch.errors import invalid
from rstitch.local.part import default_threads


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench engine`."""

    models: Annotated[Path, typer.Option(help="Folder with tiny-slm and tiny-llm.", show_default="models")] = (
        ROOT / "models"
    )
    model: Annotated[
        list[str],
        typer.Option(
            parser=shape_or_folder,
            metavar="NAME|DIR",
            help=f"Instead: {', '.join(SHAPES)} (random weights), or a model folder; may be repeated.",
        ),
    ] = many()
    device: Device = "cpu"
    dtype: Dtype = None
    threads: Threads = field(default_factory=default_threads)
    steps: Annotated[int, typer.Option(min=1, help="Of each batch and context.")] = 64
    batches: Annotated[Sequence[int], counts("Sessions of a step.")] = (1, 2, 4, 8, 16, 32, 64)
    contexts: Annotated[Sequence[int], counts("Tokens of a session before.")] = (64, 256, 512)
    engine_option: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="A limit of every engine; may be repeated.")
    ] = many()
    variant: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE[,KEY=VALUE]",
            help="One more engine with these limits, measured in the same turns; may be repeated.",
        ),
    ] = many()
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw step times to this file.")] = None


def run(options: Options) -> int:
    """Measures and prints."""
    console = Console()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    names = options.model or [str(options.models / name) for name in ("tiny-slm", "tiny-llm")]
    device = torch.device(options.device)
    # First: later there may be no room for what it copies, and all figures would be lost.
    bandwidth = _copy_bandwidth(device) if device.type == "cuda" else None
    models = []
    with progress_bar(console) as progress:
        for name in names:
            models.append(measure(name, options, progress, bandwidth))
            gc.collect()  # the next model needs the room
            if device.type == "cuda":
                torch.cuda.empty_cache()
    for model in models:
        engine_tables.show(model, console)
    if options.plot is not None:
        engine_tables.plot(models, options.plot)
    text = "".join(f"{engine_tables.document(model)}\n\n" for model in models)
    page.finish(options, "engine", {"models": models}, text, console)
    return 0


def measure(name: str, options: Options, progress: Progress, bandwidth: float | None = None) -> dict[str, Any]:
    """Measures all figures of one model; `bandwidth` is that of the device's memory in bytes a second, if known."""
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    task = progress.add_task(Path(name).name, total=len(options.contexts) * max(1, options.steps // BLOCK))
    with tempfile.TemporaryDirectory(prefix="rstitch-engine-") as folder:
        served, _ = make_pair(name, name, Path(folder))
        loaded = load(str(served.folder), dtype, device, random_weights=None if served.has_weights else 0)
        vocab_size = min(load_tokenizer(str(served.folder)).vocab_size, loaded.num_logits)
    limits = limits_for(vocab_size, max(options.contexts), max(options.batches), options.engine_option, device)
    bare = _copy(loaded.module)
    bare.set_attn_implementation("sdpa")
    variants = {"": limits} | {text: _with(limits, text.split(",")) for text in options.variant}
    engines = {
        variant: Ours(dataclasses.replace(loaded, module=_copy(loaded.module)), chosen)
        for variant, chosen in variants.items()
    }
    contest = Contest(bare, engines, vocab_size, device)
    rows = [
        row
        for context in options.contexts
        for row in contest.decode(context, options.batches, options.steps, lambda: progress.advance(task))
    ]
    made: dict[str, Any] = {
        "model": Path(name).name,
        "parameters": sum(parameter.numel() for parameter in loaded.module.parameters()),
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": options.threads,
        "rows": rows,
        "extends": list(contest.extend(options.contexts[len(options.contexts) // 2], options.steps)),
        "counters": {variant: asdict(ours.engine.counters) for variant, ours in engines.items()},
    }
    if bandwidth is not None:
        weights = _bytes_per_step(loaded.module)
        made["copy_bandwidth_gb_s"] = bandwidth / 1e9
        made["floor_ms"] = 1000 * weights / bandwidth
        for row in rows:
            row["floor_share"] = made["floor_ms"] / row["run_on_ms"]
    return made


def _copy(module: Any) -> Any:
    """The same weights in another module, whose attention can be set apart."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def limits_for(
    vocab_size: int, context: int, num_sessions: int, changes: Sequence[str], device: torch.device
) -> Limits:
    """With room for all sessions, in pages as a worker on the device has them."""
    length, page_size = context + 8 * BLOCK, default_page_size(device)
    num_pages = num_sessions * math.ceil(length / page_size)
    return _with(Limits(vocab_size, length, num_pages, page_size=page_size), changes)


def _with(limits: Limits, changes: Sequence[str]) -> Limits:
    """With `key=value` changes. Raises: RstitchError (INVALID_ARGUMENT) that names one that is none."""
    kinds = get_type_hints(Limits)
    values: dict[str, Any] = {}
    for text in changes:
        key, _, value = text.partition("=")
        choices = get_args(kinds.get(key))
        try:
            if choices and value not in choices:
                raise ValueError(value)
            values[key] = value if choices else kinds[key](value)
        except (KeyError, ValueError):
            known = ", ".join(choices or kinds)
            raise invalid("--engine-option", f"{text!r} is no limit.", f"Write KEY=VALUE, of {known}.") from None
    return dataclasses.replace(limits, **values)


def _copy_bandwidth(device: torch.device, num_bytes: int = 1 << 30, repeats: int = 20) -> float:
    """Bytes a second that a copy within the device's memory reads and writes."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        seconds.append(float(begin.elapsed_time(end)) / 1000)
    return 2 * num_bytes / median(seconds)


def _bytes_per_step(module: Any) -> int:
    """Weights that a step reads: all but an input embedding of its own, of which it reads a few rows."""
    total = sum(int(parameter.numel() * parameter.itemsize) for parameter in module.parameters())
    embedding: torch.Tensor = module.get_input_embeddings().weight
    is_tied = embedding is module.get_output_embeddings().weight
    return total - (0 if is_tied else embedding.numel() * embedding.itemsize)
