"""What background catch-up costs a session that decodes beside it, and how long the catch-up takes.

    python -m evals.bench.background

Engines of the bundled LLM in this process, one per bound. In turn, round after round, each decodes alone and beside a
catch-up: the decode steps while the catch-up goes on, over the engine's steps without it in the same round.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections import defaultdict
from statistics import median

import torch

from model_worker.build import build
from model_worker.engine.engine import Engine
from model_worker.engine.types import RunFinished, RunRequest
from model_worker.settings import WorkerSettings
from model_worker.tokenizer import load_tokenizer

# Name: the share by which background rows may stretch a step.
BOUNDS = {"0": 0.0, "0.25": 0.25, "1": 1.0, "none": 1e9}
PROMPT = 64
_DECODED = 48


@dataclasses.dataclass(frozen=True)
class Beside:
    """A round: times of decode steps in microseconds, and the steps that the catch-up took; 0: it did not end."""

    steps_us: list[float]
    num_catch_up_steps: int


def decode(engine: Engine, names: itertools.count[int], num_catch_up_tokens: int) -> Beside:
    """Decodes for a while; with tokens to catch up, in the steps that carry them."""
    vocab_size = engine.limits.vocab_size
    tokens = [(7 * index + 3) % vocab_size for index in range(max(PROMPT, num_catch_up_tokens))]
    name = f"s{next(names)}"
    never = frozenset([vocab_size])
    engine.submit(RunRequest(name, 0, tokens[:PROMPT], max_tokens=_DECODED, stop_tokens=never))
    engine.step()
    catch_up = 0
    if num_catch_up_tokens:
        catch_up = engine.submit(RunRequest(f"{name}-beside", 0, tokens[:num_catch_up_tokens]))
    steps: list[float] = []
    ended = 0
    while engine.load.num_rows and not (catch_up and ended):
        begin = time.perf_counter()
        events = engine.step()
        steps.append((time.perf_counter() - begin) * 1e6)
        if any(isinstance(event, RunFinished) and event.run_id == catch_up for event in events):
            ended = len(steps)
    for session in (name, f"{name}-beside"):
        engine.close_session(session)
    return Beside(steps, ended)


def _engine(stretch: float) -> Engine:
    settings = WorkerSettings(
        model="models/tiny-llm", listen="127.0.0.1:0", threads=1, num_pages=256, background_stretch=stretch
    )
    return build(settings, load_tokenizer(settings.model).vocab_size)[1]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=320, help="to catch up (default 320)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    engines = {bound: _engine(stretch) for bound, stretch in BOUNDS.items()}
    for engine in engines.values():
        engine.costs = engines["0"].costs
    names = itertools.count()
    longest, typical, taken = defaultdict(list), defaultdict(list), defaultdict(list)
    for _ in range(args.rounds):
        for bound, engine in engines.items():
            alone = median(decode(engine, names, 0).steps_us)
            beside = decode(engine, names, args.tokens)
            longest[bound].append(max(beside.steps_us) / alone)
            typical[bound].append(median(beside.steps_us) / alone)
            if beside.num_catch_up_steps:
                taken[bound].append(beside.num_catch_up_steps)
    print("| `--background-stretch` | median step | longest step | steps until caught up |")
    print("|-|-|-|-|")
    for bound in BOUNDS:
        steps = f"{median(taken[bound]):.0f}" if taken[bound] else f"not within {_DECODED}"
        print(f"| {bound} | {median(typical[bound]):.2f}x | {median(longest[bound]):.2f}x | {steps} |")


if __name__ == "__main__":
    main()
