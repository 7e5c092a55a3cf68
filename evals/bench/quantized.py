"""`bench quantized`: what `--quantize` costs and gives: answers, memory and speed of one model in each format.

The task's test problems are answered greedily by an engine of each format, all at once, and compared problem by problem
with the model in float32. Then a shape's steps are timed, block by block in turn, with random weights.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from transformers import AutoTokenizer

from evals.asking.values import Threads, counts
from evals.bench import page
from evals.bench.shapes import make_pair, shape_or_folder
from evals.checking.checkers import checker_of
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.figures.statistics import paired_difference
from evals.tasks import task as tasks
from evals.tasks.data import Problem, load_data
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import LoadedModel, load
from model_worker.engine.forward.memory import weight_bytes
from model_worker.engine.types import Limits, RunFailed, RunRequest, TokenKept
from rstitch.local.part import bundled_model, default_threads

_CPU = torch.device("cpu")
_WAYS: tuple[tuple[str, Any], ...] = (
    ("float32", "none"),
    ("bfloat16", "none"),
    ("bfloat16", "int8"),
    ("bfloat16", "int4"),
)
_BLOCK = 8  # steps from one position on
_PROMPT = 64
_ANSWERS: Columns = {
    "weights": "{way}",
    "weights MB": "{megabytes:.2f}",
    "accuracy": "{accuracy:.1%}",
    "points beside float32": "{difference:+.1f} [{low:+.1f}, {high:+.1f}]",
    "same tokens": "{same:.0%}",
}
_SPEED: Columns = {
    "weights": "{way}",
    "weights MB": "{megabytes:.0f}",
    "rows": "{rows}",
    "ms a step": "{ms:.2f}",
    "time over bfloat16": "{ratio[value]:.2f}x [{ratio[low]:.2f}, {ratio[high]:.2f}]",
}


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench quantized`: which model answers what, and which shape is timed."""

    model: Annotated[str, typer.Option(metavar="DIR", help="Answers.", show_default="the bundled LLM")] = str(
        bundled_model("tiny-llm")
    )
    task: Annotated[str, typer.Option(help="See rstitch eval list.")] = "tiny"
    n: Annotated[int, typer.Option(min=1, help="Problems.")] = 500
    shape: Annotated[
        str,
        typer.Option(metavar="NAME|DIR", parser=shape_or_folder, help="Whose steps are timed."),
    ] = "tiny-50m"
    rows: Annotated[Sequence[int], counts("Of a step.")] = (1, 4, 64)
    rounds: Annotated[int, typer.Option(min=1, help="Blocks of each way.")] = 12
    threads: Threads = field(default_factory=default_threads)


def run(options: Options) -> int:
    """Answers and times; returns the exit code."""
    torch.set_num_threads(options.threads)
    transformers.logging.disable_progress_bar()
    console = Console()
    answers, speed = accuracies(options), speeds(options)
    titles = (
        f"{Path(options.model).name}, {options.task}, n = {options.n}",
        f"{options.shape}, {options.threads} threads",
    )
    text = ""
    for title, columns, rows in zip(titles, (_ANSWERS, _SPEED), (answers, speed), strict=True):
        console.print(terminal_table(title, columns, rows))
        text += f"### {title}\n\n{markdown_table(columns, rows)}\n\n"
    page.finish(options, "quantized", {"answers": answers, "speed": speed}, text, console)
    return 0


def accuracies(options: Options) -> list[Row]:
    """Answers the problems in each way, and compares with the first."""
    task = tasks.load(options.task)
    problems = load_data(task, n=options.n).problems
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows: list[Row] = []
    first: tuple[list[bool], list[list[int]]] | None = None
    for dtype, kind in _WAYS:
        loaded = load(options.model, getattr(torch, dtype), _CPU, quantized=kind)
        tokens = _answers(loaded, tokenizer, problems, task.max_new_tokens)
        correct = asyncio.run(
            _checked(task, problems, [str(tokenizer.decode(t, skip_special_tokens=True)) for t in tokens])
        )
        first = first or (correct, tokens)
        difference, low, high = (100 * value for value in paired_difference(correct, first[0]))
        same = sum(ours == theirs for ours, theirs in zip(tokens, first[1], strict=True)) / len(tokens)
        rows.append(
            {"way": _name(dtype, kind), "megabytes": weight_bytes(loaded.module) / 1e6, "same": same}
            | {"accuracy": sum(correct) / len(correct), "difference": difference, "low": low, "high": high}
        )
    return rows


def _answers(loaded: LoadedModel, tokenizer: Any, problems: list[Problem], max_new_tokens: int) -> list[list[int]]:
    engine = Engine(loaded, Limits(loaded.num_logits, loaded.context_length, num_pages=len(problems) * 64))
    answers: dict[int, list[int]] = {}
    for problem in problems:
        chat = [{"role": "user", "content": problem.prompt}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        request = RunRequest(problem.id, 0, prompt, max_tokens=max_new_tokens, stop_tokens=loaded.stop_tokens)
        answers[engine.submit(request)] = []
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, RunFailed):
                raise event.error
            if isinstance(event, TokenKept):
                answers[event.run_id].append(event.token)
    return list(answers.values())


async def _checked(task: tasks.Task, problems: list[Problem], texts: list[str]) -> list[bool]:
    async with checker_of(task) as checker:
        return [(await checker.check(problem, text)).correct for problem, text in zip(problems, texts, strict=True)]


def speeds(options: Options) -> list[Row]:
    """Times steps of a shape in each way but float32, in turn."""
    ways = _WAYS[1:]
    with tempfile.TemporaryDirectory(prefix="rstitch-quantized-") as folder:
        served, _ = make_pair(str(options.shape), str(options.shape), Path(folder))
        models = {
            _name(dtype, kind): load(
                str(served.folder), getattr(torch, dtype), _CPU, 1024, None if served.has_weights else 0, kind
            )
            for dtype, kind in ways
        }
    rows: list[Row] = []
    for count in options.rows:
        engines = {way: _Decoding(loaded, count) for way, loaded in models.items()}
        times: dict[str, list[float]] = {way: [] for way in engines}
        for _ in range(options.rounds):
            for way, decoding in engines.items():
                times[way].append(decoding.block())
        plain = times[_name(*ways[0])]
        for way, seconds in times.items():
            facts = {"way": way, "megabytes": weight_bytes(models[way].module) / 1e6, "rows": count}
            rows.append(
                facts | {"ms": 1000 * sorted(seconds)[len(seconds) // 2], "ratio": asdict(ratio(seconds, plain))}
            )
    return rows


class _Decoding:
    """Sessions that decode together, from one position on again and again."""

    def __init__(self, loaded: LoadedModel, count: int) -> None:
        length = _PROMPT + 2 * _BLOCK
        self._engine = Engine(loaded, Limits(loaded.num_logits, length, num_pages=count * (length // 16 + 1)))
        self._count = count
        self.block()

    def block(self) -> float:
        """Decodes some steps; returns the median seconds of one."""
        prompt = list(range(5, 5 + _PROMPT))
        for index in range(self._count):
            self._engine.submit(RunRequest(str(index), 0, prompt, max_tokens=_BLOCK + 2))
        seconds = []
        while not self._engine.is_idle:
            begin = time.perf_counter()
            kept = sum(isinstance(event, TokenKept) for event in self._engine.step())
            if kept == self._count:  # every row decodes
                seconds.append(time.perf_counter() - begin)
        return sorted(seconds[1:])[len(seconds[1:]) // 2]


def _name(dtype: str, kind: str) -> str:
    return dtype if kind == "none" else kind
