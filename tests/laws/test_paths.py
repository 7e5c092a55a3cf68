"""The laws over real processes with each way in which a worker can compute a step, which no answer may show.

The default, and attention by views of the cache, are what other laws run with; what holds in 16 bits is in
test_invariant.py.
"""

from __future__ import annotations

import asyncio
import copy
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from model_worker.engine.types import RunRequest
from model_worker.engine.types import Sampling as EngineSampling
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Sampling, SlmOnly, Speculative, Threshold
from rstitch.local import processes
from rstitch.v1 import worker_pb2, worker_pb2_grpc
from tests.support.breaking import free_pages, interrupted, long_prompts, runs_on
from tests.support.engines import generate, make_engine, make_engine_of, run_one
from tests.support.served import SMALL, Pair, check_kept, expected, start_stack, written

SYSTEM = [(7 * index + 11) % 290 + 5 for index in range(20)]  # a page and a little, which all prompts begin with
PROMPTS = [[*SYSTEM, 40], [*SYSTEM, 7, 8, 9], [50, 60]]
TAUS = (0.25, 0.35)
SEEDS = (3, 4)
GREEDY = Sampling()


async def check_laws(
    pair: Pair, told: str, args: Sequence[str], env: Mapping[str, str] | None = None, tokens: int = 24, long: int = 100
) -> None:
    """A stack whose workers are given `args`, and say that their steps run as `told` (a pattern), keeps the laws."""
    worker_args = [*SMALL, "--prefix-cache", "share", *args]
    with start_stack(pair, worker_args, ["--run-ahead", "on", "--guard", "off"], env=env) as stack:
        for address in stack.worker_addresses:
            async with grpc.aio.insecure_channel(address) as channel:
                info = await worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest())
            assert re.match(told, info.path)
        async with AsyncClient(stack.router_address, timeout_s=100) as client:

            async def ask(prompt: list[int], policy: Any, sampling: Sampling = GREEDY) -> Any:
                answer = await client.answer(tokens=prompt, policy=policy, sampling=sampling, max_new_tokens=tokens)
                await check_kept(stack, client, answer, prompt)
                return answer

            asked = [(prompt, tau) for prompt in PROMPTS for tau in TAUS]
            for (prompt, tau), answer in zip(
                asked, await asyncio.gather(*(ask(prompt, Threshold(tau)) for prompt, tau in asked)), strict=True
            ):
                assert written(answer) == expected(pair.reference(prompt, tau, tokens))
            drafts = accepted = 0
            for prompt in PROMPTS:
                alone = generate(pair.model("llm"), prompt, tokens)
                small, large, drafted = await asyncio.gather(
                    *(ask(prompt, policy) for policy in (SlmOnly(), LlmOnly(), Speculative(4)))
                )
                assert list(small.tokens) == generate(pair.model("slm"), prompt, tokens)
                assert list(large.tokens) == list(drafted.tokens) == alone
                drafts += drafted.finished.usage.num_draft_tokens
                accepted += drafted.finished.usage.num_accepted_draft_tokens
            assert 0 < accepted < drafts, "drafts that are all right or all wrong test little"
            sampled = await asyncio.gather(*(ask(PROMPTS[0], LlmOnly(), Sampling(0.9, seed=seed)) for seed in SEEDS))
            assert [list(answer.tokens) for answer in sampled] == sampled_otherwise(pair, tokens)
            assert sampled[0].finished.usage.num_cached_tokens > 0, "no page was shared"
            ((prompt, tau),) = long_prompts(pair, 1, long)
            events = client.generate(tokens=prompt, policy=Threshold(tau), max_new_tokens=long)
            answer = await interrupted(events, stack.worker("llm"), runs_on(client))
            assert written(answer) == expected(pair.reference(prompt, tau, long))
            async for trajectory in client.trajectories():
                await client.delete_trajectory(trajectory.session_id)
        for address in stack.worker_addresses:
            free, total = await free_pages(address)
            assert free == total


def sampled_otherwise(pair: Pair, tokens: int) -> list[list[int]]:
    """The sampled answers of an engine in this process with every such path off."""
    engine = make_engine_of(copy.deepcopy(pair.model("llm")), compile="off", attention="gather", prefix_cache="off")
    return [
        run_one(engine, RunRequest(f"{seed}", 0, PROMPTS[0], EngineSampling(0.9, seed=seed), max_tokens=tokens)).tokens
        for seed in SEEDS
    ]


@pytest.mark.soak  # tests/engine/test_compiled.py has the same of one engine
@pytest.mark.timeout(300)
async def test_compiled_steps_change_nothing(
    kindred_pair: Pair, compiled_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both models are of one shape, compiled once and found by every worker, wherever its model's folder is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled_code))
    monkeypatch.setenv("RSTITCH_THREADS", "1")  # the code is that of one thread, as here
    make_engine(compile="on")
    kept = set(os.listdir(compiled_code / "rstitch"))
    await check_laws(kindred_pair, ".*, compiled", ["--compile", "on"])
    assert set(os.listdir(compiled_code / "rstitch")) == kept, "it was compiled again"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("told", "args"),
    [
        ("triton, fused: ", ["--attention", "triton", "--fused", "on"]),
        ("triton(?!, fused)", ["--attention", "triton", "--fused", "off"]),
    ],
    ids=["fused", "attention alone"],
)
async def test_kernels_change_nothing(
    kindred_pair: Pair, told: str, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Triton's interpreter, which takes minutes, in float32."""
    pytest.importorskip("triton")
    monkeypatch.setenv("RSTITCH_TEST_DTYPE", "float32")
    # Not forked: the interpreter has to be chosen before anything imports Triton.
    monkeypatch.setattr(processes.ChildProcess, "spawn", staticmethod(processes.spawn))
    args = [*args, "--measure-ms", "0"]
    await check_laws(kindred_pair, told, args, {"TRITON_INTERPRET": "1"}, tokens=10, long=40)


@pytest.mark.soak  # tests/laws/test_invariant.py has the same engine under all laws but these
async def test_sums_in_one_order_change_nothing(kindred_pair: Pair) -> None:
    await check_laws(kindred_pair, ".*batch-invariant", ["--batch-invariant"])


@pytest.mark.soak  # tests/engine/test_ranks.py has the same of one engine
@pytest.mark.timeout(600)
async def test_ranks_change_nothing(kindred_pair: Pair) -> None:
    """Both models are divided among two processes each; one of the workers is killed, and its rank with it."""
    await check_laws(kindred_pair, r".*, tp: 2", ["--tp", "2"])
