"""What a decode step of a real shape is made of: its kernels on the device, the time between them, and what of that
is saved where the host works on during the next step.

python -m evals.gpu.anatomy --device cuda:0 --shape qwen2.5-1.5b

On a CPU prompts are short and steps few: it shows then that all of it runs.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from evals.asking.values import Device, JsonFile, one_of
from evals.bench.shapes import SHAPES, make_pair
from evals.commands import run_program
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.gpu import overlap
from model_worker.engine.engine import Engine
from model_worker.engine.forward.attention_choice import default_page_size
from model_worker.engine.forward.loader import load
from model_worker.engine.types import Limits, RunFailed, RunRequest, TokenKept
from rstitch.local.part import default_threads

_CONTEXT, _TOP = 1024, 16
_STEPS_COLUMNS: Columns = {
    "sessions": "{sessions}",
    "step ms": "{step_ms:.3f}",
    "on the device ms": "{device_ms:.3f}",
    "between ms": "{between_ms:.3f}",
    "kernels": "{kernels:.0f}",
}
_KERNELS_COLUMNS: Columns = {"kernel": "{name}", "us a step": "{us:.1f}", "a step": "{count:.0f}"}


@dataclass(frozen=True, slots=True)
class _Size:
    """How many sessions step at once, after prompts of how many tokens, and how often that is timed and profiled."""

    sessions: tuple[int, ...]
    prompt: int
    steps: int


_WHOLE, _DRY = _Size((1, 8), 500, 40), _Size((1, 4), 40, 5)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `python -m evals.gpu.anatomy`."""

    device: Device = "cuda:0"
    shape: Annotated[str, typer.Option(parser=one_of(SHAPES), metavar="NAME", help=f"{', '.join(SHAPES)}.")] = (
        "qwen2.5-1.5b"
    )
    json: JsonFile = None


def run(options: Options) -> int:
    """Times and profiles a decode step of one and of several sessions; `--json` keeps what the page needs."""
    device, console = torch.device(options.device), Console()
    torch.set_num_threads(default_threads())
    begin = time.monotonic()
    engine = _engine(options.shape, device)
    path = f"{options.shape}: {engine.path}, up in {time.monotonic() - begin:.1f} s"
    size = _WHOLE if device.type == "cuda" else _DRY
    steps, kernels, turns = [], [], []
    for num_sessions in size.sessions:
        step, of_step = _measured(engine, num_sessions, size, device)
        steps.append(step)
        kernels.append(of_step)
        turns.append(overlap.measured(engine, num_sessions))
    console.print(terminal_table(path, _STEPS_COLUMNS, steps))
    console.print(terminal_table("one session", _KERNELS_COLUMNS, kernels[0]))
    told = "under the driver" if device.type == "cuda" else "under the driver, with a device that sleeps"
    console.print(terminal_table(told, overlap.COLUMNS, turns))
    if options.json is not None:
        text = [f"{path}.", markdown_table(_STEPS_COLUMNS, steps), markdown_table(_KERNELS_COLUMNS, kernels[0])]
        text += [f"{told}:", markdown_table(overlap.COLUMNS, turns)]
        options.json.write_text(json.dumps({"steps": steps, "kernels": kernels, "overlap": turns, "text": text}))
    return 0


def _engine(shape: str, device: torch.device) -> overlap.TurnableEngine:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with tempfile.TemporaryDirectory(prefix="rstitch-anatomy-") as folder:
        served, _ = make_pair(shape, shape, Path(folder))
        loaded = load(str(served.folder), dtype, device, random_weights=0)
    page_size = default_page_size(device)
    limits = Limits(SHAPES[shape].vocab_size, _CONTEXT, 8 * math.ceil(_CONTEXT / page_size), page_size=page_size)
    return overlap.TurnableEngine(loaded, limits)


def _measured(engine: Engine, num_sessions: int, size: _Size, device: torch.device) -> tuple[Row, list[Row]]:
    """Times a step of so many sessions, then looks into as many again."""
    runs = [
        engine.submit(
            RunRequest(
                f"{num_sessions}-{index}", 0, [(7 * n + index) % 1000 for n in range(size.prompt)], max_tokens=400
            )
        )
        for index in range(num_sessions)
    ]
    while sum(_kept(engine)) < num_sessions:  # prompts first
        pass
    seconds = []
    for _ in range(size.steps):
        begin = time.perf_counter()
        kept = sum(_kept(engine))
        seconds.append(time.perf_counter() - begin)
        assert kept == num_sessions, f"{kept} of {num_sessions} sessions went on"
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        for _ in range(size.steps):
            list(_kept(engine))
    events = profiled.key_averages()
    clock = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    busy = [(event.key, getattr(event, clock), event.count) for event in events if getattr(event, clock) > 0]
    busy.sort(key=lambda event: -event[1])
    for run in runs:
        engine.cancel(run)
    step_ms, device_ms = 1000 * median(seconds), sum(us for _, us, _ in busy) / 1000 / size.steps
    step = {
        "sessions": num_sessions,
        "step_ms": step_ms,
        "device_ms": device_ms,
        "between_ms": step_ms - device_ms,
        "kernels": sum(count for *_, count in busy) / size.steps,
    }
    return step, [
        {"name": name[:80], "us": us / size.steps, "count": count / size.steps} for name, us, count in busy[:_TOP]
    ]


def _kept(engine: Engine) -> Iterator[int]:
    """Does a step; yields 1 for every token that it kept. Raises the error of a run that failed."""
    for event in engine.step():
        if isinstance(event, RunFailed):
            raise event.error
        if isinstance(event, TokenKept):
            yield 1


if __name__ == "__main__":
    sys.exit(run_program("python -m evals.gpu.anatomy", __doc__, run, Options))
