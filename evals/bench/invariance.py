"""`bench invariance`: what `--batch-invariant` keeps and what it costs, by one engine with it and one without, in turn.

Random prompts are answered greedily one after another and all at once: how many answers have other tokens then, and how
many other entropies, which show differences that no token shows. Then sessions decode, block by block in turn.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import torch
import transformers
import typer
from rich.console import Console

from evals.asking.values import Device, Threads
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.options import many
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import load
from model_worker.engine.types import Limits, RunFailed, RunRequest, TokenKept
from rstitch.local.part import bundled_model

_BLOCK = 12  # steps from one position on, then back to it
_PROMPT = 100  # tokens of the first session that decodes; each further one has 7 more
_ANSWERS: Columns = {
    "": "{variant}",
    "answers": "{answers}",
    "other tokens": "{other_tokens}",
    "other entropies": "{other_entropies}",
}
_SPEED: Columns = {
    "sessions": "{sessions}",
    "tok/s without": "{without:.0f}",
    "tok/s with": "{with_it:.0f}",
    "CPU time a token": "{cpu:.2f}x",
}


@dataclass
class _Answer:
    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `bench invariance`."""

    model: Annotated[str | None, typer.Option(help="Folder or hub id.", show_default="the bundled LLM")] = None
    device: Device = "cpu"
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the model.")] = "bfloat16"
    n: Annotated[int, typer.Option(min=1, help="Answers.")] = 36
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 60
    sessions: Annotated[list[int], typer.Option(min=1, metavar="N...", help="Sessions that decode at once.")] = many(
        1, 4, 16
    )
    rounds: Annotated[int, typer.Option(min=1, help="Blocks of each variant.")] = 16
    threads: Threads = 1


def run(options: Options) -> int:
    """Counts answers that change in a batch and times decoding, with the flag and without; returns the exit code."""
    torch.set_num_threads(options.threads)
    transformers.logging.disable_progress_bar()
    console = Console()
    engines = {name: _engine(options, flag) for name, flag in (("without", False), ("with", True))}
    answers = [{"variant": name, **differences(engine, options)} for name, engine in engines.items()]
    speed = speeds(engines["without"], engines["with"], options)
    title = f"{Path(options.model or 'tiny-llm').name}, {options.dtype}, {options.device}, threads {options.threads}"
    for name, columns, rows in ((title, _ANSWERS, answers), ("decoding", _SPEED, speed)):
        console.print(terminal_table(name, columns, rows))
        console.print(markdown_table(columns, rows), highlight=False)
    return 0


def _engine(options: Options, batch_invariant: bool) -> Engine:
    model = options.model or bundled_model("tiny-llm")
    loaded = load(model, getattr(torch, options.dtype), torch.device(options.device))
    length = min(loaded.context_length, _PROMPT + 7 * max(options.sessions) + options.max_new_tokens + _BLOCK)
    num_pages = (max(options.n, max(options.sessions)) + 1) * -(-length // 16)
    return Engine(loaded, Limits(loaded.num_logits, length, num_pages, batch_invariant=batch_invariant))


def differences(engine: Engine, options: Options) -> Row:
    """Counts the answers that are others among all than alone."""
    rng = random.Random(3)
    vocab_size = engine.limits.vocab_size
    prompts = [[rng.randrange(5, vocab_size) for _ in range(rng.randrange(1, 70))] for _ in range(options.n)]
    asked = [
        RunRequest(f"answer {index}", 0, prompt, max_tokens=options.max_new_tokens)
        for index, prompt in enumerate(prompts)
    ]
    alone = [_answers(engine, [request])[0] for request in asked]
    together = _answers(engine, asked)
    pairs = list(zip(alone, together, strict=True))
    return {
        "answers": options.n,
        "other_tokens": sum(one.tokens != other.tokens for one, other in pairs),
        "other_entropies": sum(one.entropies != other.entropies for one, other in pairs),
    }


def _answers(engine: Engine, requests: list[RunRequest]) -> list[_Answer]:
    made = {engine.submit(request): _Answer() for request in requests}
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, RunFailed):
                raise event.error
            if isinstance(event, TokenKept):
                made[event.run_id].tokens.append(event.token)
                made[event.run_id].entropies.append(event.entropy)
    return list(made.values())


def speeds(without: Engine, with_it: Engine, options: Options) -> list[Row]:
    """Measures decoding by number of sessions, both engines in turn."""
    engines = (without, with_it)
    for engine in engines:
        for index in range(max(options.sessions)):
            tokens = [(7 * at + 3 * index) % engine.limits.vocab_size for at in range(_PROMPT + 7 * index)]
            _answers(engine, [RunRequest(f"session {index}", 0, tokens, max_tokens=1)])
    rows: list[Row] = []
    for num_sessions in options.sessions:
        rounds = [[_block(engine, num_sessions) for engine in engines] for _ in range(options.rounds)]
        rates = [median(times[place][0] for times in rounds) for place in range(2)]
        rows.append(
            {
                "sessions": num_sessions,
                "without": rates[0],
                "with_it": rates[1],
                "cpu": median(times[1][1] / times[0][1] for times in rounds),
            }
        )
    return rows


def _block(engine: Engine, num_sessions: int) -> tuple[float, float]:
    """Returns tokens a second and CPU seconds a token, over a block of steps."""
    runs = [
        engine.submit(RunRequest(f"session {index}", _PROMPT + 7 * index, (5,), max_tokens=2 * _BLOCK))
        for index in range(num_sessions)
    ]
    engine.step()
    begin, cpu = time.perf_counter(), time.process_time()
    # Counted, since a session may end by a stop token.
    kept = sum(isinstance(event, TokenKept) for _ in range(_BLOCK) for event in engine.step())
    took = kept / (time.perf_counter() - begin), (time.process_time() - cpu) / kept
    for run_id in runs:
        engine.cancel(run_id)
    return took
