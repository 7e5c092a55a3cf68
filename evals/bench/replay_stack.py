"""The whole stack with traces in place of the models' entropies, and who is asked there. See `replay_router`."""

from __future__ import annotations

import math
import random
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from evals.asking.stack_options import PlaceOptions
from evals.asking.stacks import Flags, local_stack
from evals.asking.systems import Served, Terms
from evals.bench.replay_router import THRESHOLD, session_id
from evals.bench.shapes import SHAPES, make_pair
from evals.bench.traces import Trace, save
from evals.tasks.data import Problem
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Policy, SlmOnly, Threshold
from rstitch.local.stack import LocalStack

# The last one follows the traces.
SYSTEMS: dict[str, Policy] = {"llm_only": LlmOnly(), "slm_only": SlmOnly(), "replay": Threshold(THRESHOLD)}
_ROUND_TO = 256  # tokens: whole pages, of whatever size the worker chooses
_SPARE = 16  # tokens of context beyond those of an answer


class Replayed(Served):
    """A system whose answer to problem i is exactly as long as trace i, counted round and round.

    A policy that hands over follows the trace; the models alone have no hand-off that could be imposed.
    """

    def __init__(
        self, name: str, client: AsyncClient, policy: Policy, traces: Sequence[Trace], num_prompt_tokens: int
    ) -> None:
        super().__init__(name, client, policy, Terms(0))
        self._traces = traces
        self._num_prompt_tokens = num_prompt_tokens

    def arguments(self, problem: Problem, sample: int) -> dict[str, Any]:
        """A prompt of random tokens, the same for all systems, in a session of the trace's name."""
        rng, index = random.Random(problem.index), problem.index % len(self._traces)
        follows = isinstance(self.spec.policy, Threshold)
        return {
            "tokens": [rng.randrange(100, 256) for _ in range(self._num_prompt_tokens)],
            "policy": self.spec.policy,
            "max_new_tokens": self._traces[index].num_tokens,
            "session_id": session_id(index, self._num_prompt_tokens) if follows else uuid.uuid4().hex,
            "guard": False,
        }


def numbered(num: int, first: int = 0) -> list[Problem]:
    """Problems that are nothing but their numbers."""
    return [Problem(index, str(index), "", "", {}) for index in range(first, first + num)]


@contextmanager
def replay_stack(
    options: PlaceOptions,
    shapes: tuple[str, str],
    traces: Sequence[Trace],
    num_prompt_tokens: int,
    num_sessions: int,
    console: Console,
) -> Iterator[LocalStack]:
    """A running stack of the SLM's and the LLM's shape, with room for just so many sessions: a GPU may hold both."""
    context = num_prompt_tokens + max(trace.num_tokens for trace in traces) + _SPARE
    with tempfile.TemporaryDirectory(prefix="rstitch-replay-") as name:
        slm, llm = make_pair(*shapes, Path(name))
        trace_file = Path(name) / "traces.jsonl"
        save(traces, trace_file)
        sizes = Flags(
            ["--traces", str(trace_file)], cache_args(num_sessions, context), slm.worker_args(), llm.worker_args()
        )
        stack = local_stack(
            options, defaults=sizes, pair=(str(slm.folder), str(llm.folder)),
            router_module="evals.bench.replay_router", timeout_s=900,
        )  # fmt: skip
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


def shape_name(shape: str) -> str:
    """The name of a shape, or of a model's folder, in tables."""
    return shape if shape in SHAPES else Path(shape).name
