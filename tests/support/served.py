"""Whole stacks for the laws, real processes with real Redis, and what their answers are compared with."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import torch
from transformers import AutoModelForCausalLM

from evals.algorithm.reference import Answer as Written
from evals.algorithm.reference import EarlyExit, Rule, Signal, Threshold, Token, stitch
from evals.algorithm.uncached_model import UncachedModel
from router_svc.main import running
from router_svc.settings import RouterSettings
from router_svc.trajectory import keys
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer
from rstitch.local.stack import LocalStack, RouterOptions, WorkerOptions
from rstitch.service.telemetry import setup_telemetry
from tests.support.pairs import STOP_TOKEN, VOCAB_SIZE
from tests.support.secured import session_name, settings_of

ROOT = Path(__file__).parents[2]


@dataclass
class Pair:
    """Two model folders, and the models themselves as the oracle sees them."""

    slm_folder: Path
    llm_folder: Path
    dtype: str
    vocab_size: int = VOCAB_SIZE
    stop_token: int = STOP_TOKEN
    models: dict[str, Any] = field(default_factory=dict)
    _references: dict[Any, list[Token]] = field(default_factory=dict)

    def model(self, role: str) -> Any:
        if role not in self.models:
            folder = self.slm_folder if role == "slm" else self.llm_folder
            dtype = getattr(torch, self.dtype)
            self.models[role] = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        return self.models[role]

    def oracle(self, role: str) -> UncachedModel:
        return UncachedModel(self.model(role), self.vocab_size)

    def stitched(
        self, prompt: list[int], rule: Rule, max_new_tokens: int, early_exit: EarlyExit | None = None
    ) -> Written:
        """Algorithm 1, naively."""
        return stitch(
            self.oracle("slm"),
            self.oracle("llm"),
            prompt,
            rule,
            max_new_tokens=max_new_tokens,
            stop_tokens={self.stop_token},
            early_exit=early_exit,
        )

    def reference(
        self,
        prompt: list[int],
        tau: float,
        max_new_tokens: int,
        tau_return: float | None = None,
        signal: Signal = "entropy",
        window: int = 0,
    ) -> list[Token]:
        """Its tokens for a threshold; remembered, since many tests ask for the same."""
        key = (tuple(prompt), tau, max_new_tokens, tau_return, signal, window)
        if key not in self._references:
            rule = Threshold(tau, tau_return, signal, window)
            self._references[key] = self.stitched(prompt, rule, max_new_tokens).written
        return self._references[key]


# Of an entropy, in the pair's own dtype or in the one that `make gpu` names.
TOLERANCE = 1e-5 if os.environ.get("RSTITCH_TEST_DTYPE") == "float32" else 1e-6

# Caches of some megabytes and not a gigabyte each, since several stacks run at once; and a short measurement.
SMALL = ("--num-pages", "4096", "--measure-ms", "100")


def start_stack(
    pair: Pair, worker_args: Sequence[str] = SMALL, router_args: Sequence[str] = (), **arguments: Any
) -> LocalStack:
    """A stack that serves a pair, to be entered.

    `make gpu` says which device serves it, and in what dtype; the oracle stays on the CPU in the pair's own.
    """
    device = os.environ.get("RSTITCH_TEST_DEVICE", "cpu")
    dtype = os.environ.get("RSTITCH_TEST_DTYPE", pair.dtype)
    slm, llm = (
        WorkerOptions(str(model), device, dtype, args=worker_args) for model in (pair.slm_folder, pair.llm_folder)
    )
    return LocalStack(slm, llm, RouterOptions(args=router_args), **arguments)


@asynccontextmanager
async def another_router(stack: LocalStack, **settings: Any) -> AsyncIterator[AsyncClient]:
    """A client of a router with settings of its own, in this process, on the workers and the Redis of a stack."""
    slm, llm = stack.worker_addresses
    locked: dict[str, Any] = settings_of(stack)
    chosen = RouterSettings(slm=slm, llm=llm, redis=stack.redis_url, listen="127.0.0.1:0", **locked, **settings)
    async with running(chosen, setup_telemetry("router", None)) as router:
        await router.ready.wait()
        address = f"127.0.0.1:{router.port}"
        async with AsyncClient(address, timeout_s=100, credentials=stack.credentials) as connected:
            yield connected
        await router.sessions.drain()
        await router.server.stop(0)


def stored_in_redis(url: str, session_id: str) -> list[tuple[str, int]]:
    """What Redis itself holds: (source, token) in order, read with nothing of ours."""
    names = {1: "prompt", 2: "slm", 3: "llm"}
    with redis.Redis.from_url(url) as connection:
        entries = connection.xrange(keys.chunks(session_name(session_id)))
    return [
        (names[int(entry[b"s"])], token) for _, entry in entries for (token,) in struct.iter_unpack("<I", entry[b"t"])
    ]


async def check_kept(stack: LocalStack, client: AsyncClient, answer: Answer, prompt: list[int]) -> None:
    """Law 5: what the client received, what Redis holds and what GetTrajectory says are the same tokens."""
    received = [("prompt", token) for token in prompt]
    received += [(str(chunk.model), token) for chunk in answer.chunks for token in chunk.tokens]
    assert stored_in_redis(stack.redis_url, answer.session_id) == received
    trajectory = await client.trajectory(answer.session_id)
    told = [(str(segment.source), token) for segment in trajectory.segments for token in segment.tokens]
    assert told == received
    assert "".join(s.text for s in trajectory.segments if s.source != "prompt") == answer.text


def written(answer: Answer) -> list[tuple[int, str]]:
    """(token, model) in order, as in the reference."""
    return [(token, str(chunk.model)) for chunk in answer.chunks for token in chunk.tokens]


def expected(reference: list[Token]) -> list[tuple[int, str]]:
    return [(token.id, token.model) for token in reference]
