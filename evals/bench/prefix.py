"""`bench prefix`: what answers that begin alike cost with their beginning computed once, and each for itself.

Two cases on one engine's model: samples of one question, all at once, and questions after a long system prompt, one
after another and all at once. Engines with pages in common and without take turns, round by round, on the same tokens;
an answer that differs between them ends the measuring.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
import transformers
from rich.console import Console

from evals.asking.flags import positive, some_of
from evals.bench import page
from evals.bench.engine import limits_for
from evals.bench.shapes import SHAPES, make_pair, shape_or_folder
from evals.figures.progress import progress_bar
from evals.figures.provenance import ROOT
from evals.figures.ratio import ratio
from evals.figures.report import Columns, markdown_table, terminal_table
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import LoadedModel, load
from model_worker.engine.types import PrefixCache, RunFailed, RunRequest, Sampling, TokenKept
from model_worker.tokenizer import load_tokenizer
from rstitch.local.part import StackError, default_threads

_COLUMNS: Columns = {
    "case": "{case}",
    "pages": "{mode}",
    "forward tokens": "{num_computed}",
    "of off": "{tokens_ratio:.2f}",
    "wall ms": "{wall_ms:.1f}",
    "wall of off": "{wall[value]:.2f} [{wall[low]:.2f}, {wall[high]:.2f}]",
    "CPU of off": "{cpu[value]:.2f} [{cpu[low]:.2f}, {cpu[high]:.2f}]",
    "first token ms": "{first_ms:.1f}",
}


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts that begin alike, and how they come: together, or each when the one before is answered."""

    name: str
    prompts: Sequence[Sequence[int]]
    together: bool


@dataclass(slots=True)
class Times:
    """Of one way in one case, by round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # from the start to the first token of the last session, s
    num_computed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how long what is shared is, and which ways of sharing take part."""
    # fmt: off
    parser.add_argument("--model", type=shape_or_folder, default=str(ROOT / "models" / "tiny-llm"),
                        metavar="NAME_OR_DIR", help=f"{', '.join(SHAPES)} (random weights), or a model folder "
                                                    "(default: the tiny LLM)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N (default cpu)")
    parser.add_argument("--dtype", help="default: float32 on CPU, bfloat16 on CUDA")
    parser.add_argument("--threads", type=int, default=default_threads(), help="CPU threads of torch")
    parser.add_argument("--modes", type=some_of(get_args(PrefixCache)), default=list(get_args(PrefixCache)),
                        help="which ways take part; off always does (default off,share,copy)")
    parser.add_argument("--samples", type=positive, default=8, help="of one question, and sessions (default 8)")
    parser.add_argument("--question", type=positive, default=60, help="tokens of a question (default 60)")
    parser.add_argument("--system", type=positive, default=1000, help="tokens of the system prompt (default 1000)")
    parser.add_argument("--answer", type=positive, default=64, help="tokens of an answer (default 64)")
    parser.add_argument("--rounds", type=positive, default=12, help="of each case (default 12)")
    # fmt: on
    page.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Times each case with and without shared pages, in turn; returns the exit code."""
    console = Console()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    with progress_bar(console) as progress:
        task = progress.add_task("measuring", total=3 * options.rounds)
        found = measure(options, lambda: progress.advance(task))
    console.print(terminal_table(found["title"], _COLUMNS, found["rows"]))
    page.finish(options, "prefix", found, f"{found['title']}\n\n{markdown_table(_COLUMNS, found['rows'])}\n", console)
    return 0


def measure(options: argparse.Namespace, tick: Callable[[], None]) -> dict[str, Any]:
    """Measures all cases. Raises StackError if an answer differs."""
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    with tempfile.TemporaryDirectory(prefix="rstitch-prefix-") as folder:
        served, _ = make_pair(options.model, options.model, Path(folder))
        vocab_size = load_tokenizer(str(served.folder)).vocab_size

        def loaded() -> LoadedModel:  # one for each engine, as that puts its attention into the module
            return load(str(served.folder), dtype, device, random_weights=None if served.has_weights else 0)

        length = options.system + options.question + options.answer
        engines = {}
        for mode in dict.fromkeys(("off", *options.modes)):
            model = loaded()
            limits = limits_for(min(vocab_size, model.num_logits), length, options.samples, (), device)
            engines[mode] = Engine(model, replace(limits, prefix_cache=mode))
    rows = [row for case in _cases(options, vocab_size) for row in _measured(case, engines, options, tick)]
    title = (
        f"{Path(options.model).name}, {str(dtype).removeprefix('torch.')}, {device.type}, {options.threads} threads: "
        f"{options.samples} answers of {options.answer} tokens, {options.rounds} rounds in turn"
    )
    return {"title": title, "rows": rows}


def _cases(options: argparse.Namespace, vocab_size: int) -> list[Case]:
    def tokens(count: int, shift: int) -> list[int]:
        return [(7 * index * (shift + 1) + 3 * shift + 5) % vocab_size for index in range(count)]

    n = options.samples
    question, system = tokens(options.question, 0), tokens(options.system, 1)
    after_system = [system + tokens(options.question, 2 + index) for index in range(n)]
    return [
        Case(f"{n} samples of one question of {options.question}", [question] * n, together=True),
        Case(f"system prompt of {options.system}, {n} questions in turn", after_system, together=False),
        Case(f"system prompt of {options.system}, {n} questions at once", after_system, together=True),
    ]


def _measured(
    case: Case, engines: dict[Any, Engine], options: argparse.Namespace, tick: Callable[[], None]
) -> list[dict[str, Any]]:
    times = {mode: Times() for mode in engines}
    for number in range(options.rounds + 1):  # the first is a warm-up
        answers: dict[Any, list[list[int]]] = {}
        for mode, engine in engines.items():
            made = times[mode] if number else Times()
            answers[mode] = _round(case, engine, f"{case.name} {number}", options.answer, made)
        if any(found != answers["off"] for found in answers.values()):
            raise StackError(f"{case.name}: answers differ with pages in common")
        tick()
    off = times["off"]
    return [
        {
            "case": case.name,
            "mode": mode,
            "num_computed": made.num_computed,
            "tokens_ratio": made.num_computed / off.num_computed,
            "wall_ms": 1000 * median(made.wall),
            "wall": asdict(ratio(made.wall, off.wall)),
            "cpu": asdict(ratio(made.cpu, off.cpu)),
            "first_ms": 1000 * median(made.first),
        }
        for mode, made in times.items()
    ]


def _round(case: Case, engine: Engine, salt: str, max_tokens: int, made: Times) -> list[list[int]]:
    """Answers all prompts under a salt of their own, so that nothing is left over from the round before."""
    answers: dict[int, list[int]] = {}
    before = engine.counters.num_computed_tokens
    begin, cpu = time.perf_counter(), time.process_time()
    first = begin

    def step() -> None:
        nonlocal first
        for event in engine.step():
            if isinstance(event, RunFailed):
                raise event.error
            if isinstance(event, TokenKept):
                if not answers[event.run_id]:
                    first = time.perf_counter()
                answers[event.run_id].append(event.token)

    for index, prompt in enumerate(case.prompts):
        sampling = Sampling(0.8, seed=index)
        request = RunRequest(f"s{index}", 0, prompt, sampling, max_tokens, cache_salt=salt)
        answers[engine.submit(request)] = []
        while not case.together and not engine.is_idle:
            step()
    while not engine.is_idle:
        step()
    made.wall.append(time.perf_counter() - begin)
    made.cpu.append(time.process_time() - cpu)
    made.first.append(first - begin)
    made.num_computed = engine.counters.num_computed_tokens - before
    for index in range(len(case.prompts)):
        engine.close_session(f"s{index}")
    return list(answers.values())
