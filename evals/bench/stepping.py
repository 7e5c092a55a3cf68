"""Steps of our engine and bare forwards of a plain cached model in turn, on the same weights. It prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch

from evals.algorithm.cached_model import CachedModel
from evals.figures.ratio import quiet, ratio
from evals.figures.report import Row
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.types import Limits, RunFailed, RunRequest, TokenKept

EXTENDS = (2, 4, 8, 16)
BLOCK = 8  # steps from one position on, then back to it: the context stays nearly the same


@dataclass(slots=True)
class Times:
    """Times of one batch size, in seconds, step by step in turn.

    Attributes:
        bare: a forward at batch 1.
        engine: a step, until its results are on the host.
        run_on: a step among others that follow one another at once.
        inside: the model's part of a watched step, and `watched`, all of it; empty where it cannot be told.
        agreed: whether both chose the same token.
    """

    bare: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    run_on: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    watched: list[float] = field(default_factory=list)
    agreed: list[bool] = field(default_factory=list)

    def beside_bare(self) -> Row:
        return {
            "bare_ms": 1000 * median(self.bare),
            "engine_ms": 1000 * median(self.engine),
            "ratio": asdict(ratio(self.engine, self.bare, BLOCK)),
            "quiet_ratio": quiet(self.engine) / quiet(self.bare),
        }


class Ours:
    """An engine with as many sessions as the largest batch, all with the same tokens."""

    def __init__(self, loaded: LoadedModel, limits: Limits) -> None:
        self.engine = Engine(loaded, limits)
        self.module = loaded.module
        self._base = 0
        self._runs: list[int] = []

    def prefill(self, num_sessions: int, tokens: Sequence[int]) -> None:
        self._base = len(tokens)
        for index in range(num_sessions):
            self.engine.submit(RunRequest(f"{index}", 0, tokens, max_tokens=1))
            while not self.engine.is_idle:
                self.step()

    def begin(self, batch: int, tokens: Sequence[int], max_tokens: int) -> None:
        """Runs of `batch` sessions that append `tokens` after the first ones."""
        self._runs = [
            self.engine.submit(RunRequest(f"{index}", self._base, tokens, max_tokens=max_tokens))
            for index in range(batch)
        ]

    def step(self) -> list[int]:
        """One step. Returns: the tokens that were kept. Raises the error of a run that failed."""
        kept = []
        for event in self.engine.step():
            if isinstance(event, RunFailed):
                raise event.error
            if isinstance(event, TokenKept):
                kept.append(event.token)
        return kept

    def end(self) -> None:
        for run_id in self._runs:
            self.engine.cancel(run_id)


@dataclass(frozen=True, slots=True)
class Contest:
    """A bare model and engines, by name of their variant, on the same weights."""

    bare: Any
    engines: dict[str, Ours]
    vocab_size: int
    device: torch.device

    def timed(self, action: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds until the device is done with it, and what it returned."""
        begin = time.perf_counter()
        made = action()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begin, made

    def decode(self, context: int, batches: Sequence[int], num_steps: int, tick: Callable[[], None]) -> Iterator[Row]:
        bare = self._prefilled(max(1, context - BLOCK // 2), max(batches))
        times = {(name, batch): Times() for batch in batches for name in self.engines}
        for _ in range(max(1, num_steps // BLOCK)):
            for (name, batch), made in times.items():
                self._block(bare, self.engines[name], batch, min(BLOCK, num_steps), made)
            tick()
        for (name, batch), made in times.items():
            step, inside = median(made.run_on), made.inside
            yield {
                "variant": name,
                "context": context,
                "batch": batch,
                **made.beside_bare(),
                "run_on_ms": 1000 * step,
                "tokens_per_s": batch / step,
                "over_batch_1": batch * median(times.get((name, 1), made).run_on) / step,
                "outside_model": 1 - median(inside) / median(made.watched) if inside else None,
                "agreed": sum(made.agreed) / len(made.agreed),
            }

    def _prefilled(self, context: int, num_sessions: int) -> CachedModel:
        """The bare model after so many tokens, as all sessions of the engines are then."""
        tokens = _tokens(context, self.vocab_size)
        for ours in self.engines.values():
            ours.prefill(num_sessions, tokens)
        bare = CachedModel(self.bare)
        bare.append(tokens)
        return bare

    def _block(self, bare: CachedModel, ours: Ours, batch: int, num_steps: int, made: Times) -> None:
        first, base = [1], len(bare)
        ours.begin(batch, first, 4 * BLOCK)
        token = bare.append(first)[: self.vocab_size].argmax().item()
        kept = ours.step()
        agreed = kept[0] == token
        for _ in range(num_steps):
            following = [int(token)]
            seconds, logits = self.timed(lambda following=following: bare.append(following))  # type: ignore[misc]
            made.bare.append(seconds)
            token = logits[: self.vocab_size].argmax().item()
            seconds, kept = self.timed(ours.step)
            made.engine.append(seconds)
            agreed = agreed and kept[0] == token  # after a difference both go on from tokens of their own
        made.agreed.append(agreed)
        ours.end()
        bare.crop(base)
        ours.begin(batch, first, 4 * BLOCK)
        ours.step()
        seconds, _ = self.timed(lambda: [ours.step() for _ in range(num_steps)])
        made.run_on.append(seconds / num_steps)
        if self.device.type == "cpu":
            with _watch(ours.module) as inside:
                for _ in range(num_steps):
                    inside.clear()
                    seconds, _ = self.timed(ours.step)
                    if inside:
                        made.inside.append(sum(inside))
                        made.watched.append(seconds)
        ours.end()

    def extend(self, context: int, num_steps: int) -> Iterator[Row]:
        """Measures the rows of short extends: so many tokens appended and one decoded, in one step."""
        bare = self._prefilled(context, 1)
        times = {(name, count): Times() for count in (1, *EXTENDS) for name in self.engines}
        for _ in range(num_steps):
            for (name, count), made in times.items():
                following = _tokens(count, self.vocab_size)
                seconds, _ = self.timed(lambda following=following: bare.append(following))  # type: ignore[misc]
                made.bare.append(seconds)
                bare.crop(context)
                ours = self.engines[name]
                ours.begin(1, following, 1)
                seconds, kept = self.timed(ours.step)
                made.engine.append(seconds)
                assert len(kept) == 1, "an extend of this length is one step"
        for (name, count), made in times.items():
            over_decode = median(made.engine) / median(times[name, 1].engine)
            yield {"variant": name, "tokens": count, **made.beside_bare(), "over_decode": over_decode}


@contextmanager
def _watch(module: Any) -> Iterator[list[float]]:
    """Seconds that the model's own code takes: its layers, attention included, and its LM head."""
    seconds: list[float] = []
    begun: list[float] = []
    parts = (module.base_model, module.get_output_embeddings())

    def begin(*_: Any) -> None:
        begun.append(time.perf_counter())

    def end(*_: Any) -> None:
        seconds.append(time.perf_counter() - begun.pop())

    hooks = [
        hook for part in parts for hook in (part.register_forward_pre_hook(begin), part.register_forward_hook(end))
    ]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def _tokens(count: int, vocab_size: int) -> list[int]:
    return [(7 * index + 3) % vocab_size for index in range(count)]
