"""`bench schemas`: what a token of an answer by a JSON schema costs, beside the same answer held to nothing.

One engine of a small model with random weights for each size of the vocabulary, in this process and one thread; answers
with a schema and without take turns. What the grammar itself takes is timed where the engine asks it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from evals.asking.values import Threads, counts
from evals.bench import page
from evals.bench.shapes import SHAPES, Shape, make_pair
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from model_worker.engine.engine import Engine
from model_worker.engine.errors import EngineError
from model_worker.engine.forward.loader import load
from model_worker.engine.types import Limits, RunFailed, RunRequest, TokenKept
from model_worker.grammars import AnswerGrammar, AskedGrammar, Grammars
from rstitch.local.part import default_threads

_PROMPT = 32
# Long enough that no answer of the default length comes to its end.
_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 40, "maxLength": 60},
        "tags": {"type": "array", "minItems": 60, "items": {"type": "string", "minLength": 10, "maxLength": 30}},
        "count": {"type": "integer"},
    },
    "required": ["name", "tags", "count"],
    "additionalProperties": False,
}
# With and without: the engine's time a token. Of the grammar: mean, median, p99. A schema: the first and another one.
_COLUMNS: Columns = {
    "vocabulary": "{vocab_size}",
    "without ms": "{free_ms:.2f}",
    "with ms": "{held_ms:.2f}",
    "ratio": "{ratio[value]:.2f} [{ratio[low]:.2f}, {ratio[high]:.2f}]",
    "grammar ms": "{mean_ms:.2f}, {median_ms:.2f}, {p99_ms:.1f}",
    "schema ms": "{first_ms:.0f}, {another_ms:.0f}",
}


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench schemas`."""

    vocab_sizes: Annotated[Sequence[int], counts("Sizes of vocabularies, at least 512.")] = (1024, 150_000)
    threads: Threads = field(default_factory=default_threads)
    answers: Annotated[int, typer.Option(min=2, help="Of each vocabulary, with a schema and as many without.")] = 12
    tokens: Annotated[int, typer.Option(min=2, max=800, help="Of an answer; one that ends earlier counts as long.")] = (
        200
    )


class Timed:
    """A grammar of the engine's that takes down how long each of its answers takes, in s."""

    def __init__(self, inner: AnswerGrammar) -> None:
        self._inner = inner
        self.seconds: list[float] = []

    @property
    def start(self) -> int:
        """The position from which on tokens are bound."""
        return self._inner.start

    def allowed(self, tokens: Sequence[int], num_same: int, num: int) -> list[bytes | EngineError]:
        """Asks the grammar which tokens may come next, and notes how long that took."""
        begin = time.perf_counter()
        found = self._inner.allowed(tokens, num_same, num)
        self.seconds.append(time.perf_counter() - begin)
        return found


def run(options: Options) -> int:
    """Times answers of each vocabulary with a schema and without, in turn; returns the exit code."""
    torch.set_num_threads(options.threads)
    rows = [asyncio.run(measure(size, options)) for size in options.vocab_sizes]
    console = Console()
    title = f"answers by a JSON schema: {options.answers} of {options.tokens} tokens, {options.threads} threads"
    console.print(terminal_table(title, _COLUMNS, rows))
    page.finish(options, "schemas", {"rows": rows}, f"### {title}\n\n{markdown_table(_COLUMNS, rows)}\n\n", console)
    return 0


async def measure(vocab_size: int, options: Options) -> Row:
    """Times answers of one vocabulary. Raises EngineError where the grammar is stuck."""
    with tempfile.TemporaryDirectory(prefix="rstitch-schemas-") as folder:
        engine, file = _engine(vocab_size, options, Path(folder))
    stop = vocab_size - 1
    grammars = Grammars(file, vocab_size, {stop})
    first_s, _ = await _held(grammars, "first", stop)
    another_s, _ = await _held(grammars, "another", stop)
    times: dict[str, list[float]] = {"free": [], "held": []}
    asked: list[float] = []
    for index in range(options.answers + 1):
        grammar = Timed((await _held(grammars, "first", stop))[1])
        for way, own in (("free", None), ("held", grammar)):
            request = RunRequest(
                f"{way}{index}",
                0,
                [(7 * place + index) % 250 for place in range(_PROMPT)],
                max_tokens=options.tokens,
                stop_tokens=frozenset({stop}),
                grammar=own,
            )
            each_s = _per_token_s(engine, request)
            if index:  # the first of each is the warm-up
                times[way].append(each_s)
        asked += grammar.seconds if index else []
    return {
        "vocab_size": vocab_size,
        "free_ms": 1000 * median(times["free"]),
        "held_ms": 1000 * median(times["held"]),
        "ratio": asdict(ratio(times["held"], times["free"])),
        "mean_ms": 1000 * mean(asked),
        "median_ms": 1000 * median(asked),
        "p99_ms": 1000 * quantiles(asked, n=100)[98],
        "first_ms": 1000 * first_s,
        "another_ms": 1000 * another_s,
    }


def _engine(vocab_size: int, options: Options, folder: Path) -> tuple[Engine, bytes]:
    """A small model with random weights, and the tokenizer that it has."""
    name = f"schemas-{vocab_size}"
    SHAPES[name] = Shape(128, 2, 2, 2, 256, vocab_size, vocab_size, tied=True)
    try:
        served, _ = make_pair(name, name, folder)
    finally:
        del SHAPES[name]
    model = load(str(served.folder), torch.float32, torch.device("cpu"), random_weights=0)
    length = _PROMPT + options.tokens + 1
    limits = Limits(vocab_size, length, num_pages=2 * -(-length // 16) + 2)
    return Engine(model, limits), (served.folder / "tokenizer.json").read_bytes()


async def _held(grammars: Grammars, schema: str, stop: int) -> tuple[float, Any]:
    """What holds an answer to a schema of that name, and how long it took to make it, in s."""
    asked = AskedGrammar(json.dumps(_SCHEMA | {"title": schema}), _PROMPT, "", "", frozenset({stop}), frozenset())
    begin = time.perf_counter()
    made = await grammars.of(schema, asked)
    return time.perf_counter() - begin, made


def _per_token_s(engine: Engine, request: RunRequest) -> float:
    """Seconds a token of one answer, behind the first, which the prompt is in."""
    moments: list[float] = []
    engine.submit(request)
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, RunFailed):
                raise event.error
            if isinstance(event, TokenKept):
                moments.append(time.perf_counter())
    engine.close_session(request.session_id)
    return (moments[-1] - moments[0]) / (len(moments) - 1)
