"""`bench prefix`: what answers that begin alike cost with their beginning computed once, and each for itself.

Two cases on one engine's model: samples of one question, all at once, and questions after a long system prompt, one
after another and all at once. Engines with pages in common and without take turns, round by round, on the same tokens;
an answer that differs between them ends the measuring.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, get_args

import torch
import transformers
import typer
from rich.console import Console

from evals.asking.values import Device, Dtype, Threads, some_of
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


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench prefix`."""

    model: Annotated[
        str,
        typer.Option(
            parser=shape_or_folder,
            metavar="NAME|DIR",
            help=f"{', '.join(SHAPES)} (random weights), or a model folder.",
            show_default="the tiny LLM",
        ),
    ] = str(ROOT / "models" / "tiny-llm")
    device: Device = "cpu"
    dtype: Dtype = None
    threads: Threads = field(default_factory=default_threads)
    modes: Annotated[
        Sequence[PrefixCache],
        typer.Option(
            parser=some_of(get_args(PrefixCache)), metavar="WAY,...", help="Which ways take part; off always does."
        ),
    ] = get_args(PrefixCache)
    samples: Annotated[int, typer.Option(min=1, help="Of one question, and sessions.")] = 8
    question: Annotated[int, typer.Option(min=1, help="Tokens of a question.")] = 60
    system: Annotated[int, typer.Option(min=1, help="Tokens of the system prompt.")] = 1000
    answer: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 64
    rounds: Annotated[int, typer.Option(min=1, help="Of each case.")] = 12


def run(options: Options) -> int:
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


def measure(options: Options, tick: Callable[[], None]) -> dict[str, Any]:
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


def _cases(options: Options, vocab_size: int) -> list[Case]:
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
    case: Case, engines: dict[Any, Engine], options: Options, tick: Callable[[], None]
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
