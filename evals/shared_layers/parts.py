"""Memory, and what single steps cost: two models and one that is both, in this process, a step of each in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import load
from model_worker.engine.forward.memory import weight_bytes
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import load_shared
from model_worker.engine.types import Limits, Returns, RunRequest

CONTEXT = 100  # tokens before those of a step: a question and some lines
SWITCHES = (8, 32, 128)  # tokens that the LLM has not seen when it takes over
_NUM_PAGES = 64


@dataclass(frozen=True, slots=True)
class Step:
    """A step of `num_tokens` tokens after the context.

    Attributes:
        shallow: by the SLM of a model with shared layers.
        after_slm: that SLM has computed the tokens already.
    """

    name: str
    engine: Engine
    num_tokens: int = 1
    shallow: bool = False
    after_slm: bool = False


class Models:
    """Both models of a pair, and the one that is both, on the CPU in float32, each in an engine."""

    def __init__(self, slm: Path, llm: Path, shared: Path, vocab_size: int) -> None:
        device = torch.device("cpu")
        self.memory: dict[str, dict[str, int]] = {}  # bytes: of the weights, and of what a session keeps per token
        engines: list[Engine] = []
        for name, folder in (("SLM", slm), ("LLM", llm), ("shared", shared)):
            loaded = load(str(folder), torch.float32, device)
            limits = Limits(vocab_size, loaded.context_length, _NUM_PAGES)
            weights, per_token = weight_bytes(loaded.module), loaded.kv_bytes_per_token
            if name == "shared":
                cut = load_shared(str(folder), loaded.module)
                weights, per_token = weights + weight_bytes(cut.tail), per_token + cut.bytes_per_token
                engines.append(SharedEngine(loaded, cut, limits))
            else:
                engines.append(Engine(loaded, limits))
            self.memory[name] = {"weights": weights, "per_token": per_token}
        self.slm, self.llm, self.shared = engines

    def steps(self) -> list[Step]:
        """Those that answers are made of: a token by either role, and the LLM's first step after a switch."""
        found = [
            Step("SLM token, pair", self.slm),
            Step("SLM token, shared", self.shared, shallow=True),
            Step("LLM token, pair", self.llm),
            Step("LLM token, shared", self.shared),
        ]
        for num in SWITCHES:
            found.append(Step(f"switch over {num} tokens, pair", self.llm, num))
            found.append(Step(f"switch over {num} tokens, shared", self.shared, num, after_slm=True))
            found.append(Step(f"switch over {num} tokens, shared, all layers again", self.shared, num))
        return found


def medians_us(steps: list[Step], rounds: int, tick: Callable[[], None]) -> dict[str, float]:
    """Times each step in turn, round after round; the first round is a warm-up. Returns microseconds by name."""
    times: dict[str, list[float]] = {step.name: [] for step in steps}
    for number in range(rounds + 1):
        for step in steps:
            seconds = _time(step, number)
            if number:
                times[step.name].append(seconds)
                tick()
    return {name: 1e6 * median(seen) for name, seen in times.items()}


def _time(step: Step, number: int) -> float:
    engine = step.engine
    context = [(7 * index + 3) % 300 for index in range(CONTEXT)]
    tokens = [(5 * index + number) % 300 for index in range(step.num_tokens)]
    engine.close_session("timed")  # tokens that it holds would not be computed again
    _run(engine, RunRequest("timed", 0, context, returns=Returns(), shallow=step.shallow))
    if step.after_slm:
        _run(engine, RunRequest("timed", CONTEXT, tokens, returns=Returns(), shallow=True))
    engine.submit(RunRequest("timed", CONTEXT, tokens, returns=Returns(), shallow=step.shallow))
    begin = time.perf_counter()
    engine.step()
    seconds = time.perf_counter() - begin
    assert engine.is_idle, "one step each"
    return seconds


def _run(engine: Engine, request: RunRequest) -> None:
    engine.submit(request)
    while not engine.is_idle:
        engine.step()
