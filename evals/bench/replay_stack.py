"""The whole stack with traces in place of the models' entropies, and one answer of it. See `replay_router`."""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from evals.asking.flags import positive
from evals.asking.stacks import Flags, add_stack_arguments
from evals.bench.replay_router import THRESHOLD, session_id
from evals.bench.shapes import SHAPES, make_pair
from evals.bench.traces import Trace, save
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Policy, SlmOnly, Threshold
from rstitch.local.part import default_threads
from rstitch.local.stack import LocalStack

# The last one follows the traces.
SYSTEMS: dict[str, Policy] = {"llm_only": LlmOnly(), "slm_only": SlmOnly(), "replay": Threshold(THRESHOLD)}
_ROUND_TO = 256  # tokens: whole pages, of whatever size the worker chooses
_SPARE = 16  # tokens of context beyond those of an answer


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer. Times in milliseconds.

    Attributes:
        latency_ms: as the client saw it; `total_ms`, as the router did.
        parts_us: the router's breakdown.
    """

    session_id: str
    latency_ms: float
    total_ms: float
    num_slm_tokens: int
    num_llm_tokens: int
    num_switches: int
    num_catch_up_tokens: int
    num_run_ahead_tokens: int
    num_run_ahead_discarded: int
    parts_us: dict[str, int]

    @property
    def num_tokens(self) -> int:
        """Of the answer."""
        return self.num_slm_tokens + self.num_llm_tokens

    @property
    def outside_ms(self) -> float:
        """What is neither model's forward."""
        return self.total_ms - (self.parts_us["slm_forward_us"] + self.parts_us["llm_forward_us"]) / 1000


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Devices and settings; the shapes are each command's own."""
    parser.add_argument("--device", default="cpu", help="of both models (default cpu)")
    parser.add_argument("--slm-device", help="of the SLM alone")
    parser.add_argument("--llm-device", help="of the LLM alone")
    parser.add_argument("--dtype", help="default: float32 on CPU, bfloat16 on CUDA")
    parser.add_argument("--threads", type=positive, default=default_threads(), help="CPU threads of each model")
    add_stack_arguments(parser, models=False)


@contextmanager
def replay_stack(
    options: argparse.Namespace,
    shapes: tuple[str, str],
    traces: Sequence[Trace],
    num_prompt_tokens: int,
    num_sessions: int,
    console: Console,
) -> Iterator[LocalStack]:
    """A running stack of the SLM's and the LLM's shape, with room for just so many sessions: a GPU may hold both."""
    context = num_prompt_tokens + max(trace.num_tokens for trace in traces) + _SPARE
    sizes = cache_args(num_sessions, context)
    flags = Flags.of(options)
    with tempfile.TemporaryDirectory(prefix="rstitch-replay-") as name:
        slm, llm = make_pair(*shapes, Path(name))
        trace_file = Path(name) / "traces.jsonl"
        save(traces, trace_file)
        stack = LocalStack(
            slm_model=str(slm.folder),
            llm_model=str(llm.folder),
            device=options.device,
            slm_device=options.slm_device,
            llm_device=options.llm_device,
            dtype=options.dtype,
            threads=options.threads,
            worker_args=[*sizes, *flags.worker],
            slm_args=[*slm.worker_args(), *flags.slm],
            llm_args=[*llm.worker_args(), *flags.llm],
            router_args=["--traces", str(trace_file), *flags.router],
            router_module="evals.bench.replay_router",
            timeout_s=900,
        )
        with console.status("starting the stack"):
            stack.start()
        try:
            yield stack
        finally:
            stack.stop()


def cache_args(num_sessions: int, context: int) -> list[str]:
    """Flags of a worker with room for so many sessions of so many tokens, and one more."""
    kv_tokens = (num_sessions + 1) * math.ceil(context / _ROUND_TO) * _ROUND_TO
    return ["--kv-tokens", str(kv_tokens), "--context-length", str(context)]


async def ask(
    client: AsyncClient, system: str, index: int, num_tokens: int, num_prompt_tokens: int, seed: int
) -> Measured:
    """One answer of exactly so many tokens; `replay` follows trace `index`. The trajectory stays."""
    rng = random.Random(seed)
    begin = time.perf_counter()
    answer = await client.answer(
        tokens=[rng.randrange(100, 256) for _ in range(num_prompt_tokens)],
        policy=SYSTEMS[system],
        max_new_tokens=num_tokens,
        guard=False,
        session_id=session_id(index, num_prompt_tokens) if system == "replay" else uuid.uuid4().hex,
    )
    latency_s = time.perf_counter() - begin
    usage = answer.finished.usage
    assert usage.num_tokens == num_tokens, "no model of a replay ever stops"
    return Measured(
        session_id=answer.session_id,
        latency_ms=1000 * latency_s,
        total_ms=usage.total_time_us / 1000,
        num_slm_tokens=usage.num_slm_tokens,
        num_llm_tokens=usage.num_llm_tokens,
        num_switches=usage.num_switches,
        num_catch_up_tokens=usage.num_catch_up_tokens,
        num_run_ahead_tokens=usage.num_run_ahead_tokens,
        num_run_ahead_discarded=usage.num_run_ahead_discarded,
        parts_us=asdict(usage.breakdown),
    )


def shape_name(shape: str) -> str:
    """As tables call it."""
    return shape if shape in SHAPES else Path(shape).name
