"""What `--batch-invariant` promises in 16 bits, over real processes: the laws that otherwise hold to rounding alone.

In bfloat16 the last bits of a sum choose between tokens, and without the flag what else is in a batch chooses the bits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Sampling, Speculative, Threshold
from rstitch.local.stack import LocalStack
from rstitch.v1 import worker_pb2, worker_pb2_grpc
from tests.support.breaking import interrupted, runs_on
from tests.support.served import ROOT, SMALL, Pair, start_stack, written

VOCAB_SIZE = 634
TOKENS = 24


def make_prompts(count: int) -> list[list[int]]:
    """Random ones: the model is sure of no token of its answers."""
    rng = random.Random(3)
    return [[rng.randrange(5, VOCAB_SIZE) for _ in range(rng.randrange(1, 60))] for _ in range(count)]


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    """The bundled pair in bfloat16, batch-invariant, with steps that cut longer prompts into chunks."""
    pair = Pair(ROOT / "models" / "tiny-slm", ROOT / "models" / "tiny-llm", "bfloat16", VOCAB_SIZE)
    with start_stack(pair, [*SMALL, "--batch-invariant", "--max-batch-tokens", "48"]) as running:
        yield running


@pytest.fixture
async def client(stack: LocalStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.router_address, timeout_s=100, reconnect_s=60) as connected:
        yield connected


@pytest.mark.parametrize("count", [12, pytest.param(36, marks=pytest.mark.soak)])
async def test_greedy_answers_are_the_same_alone_at_once_and_speculatively(client: AsyncClient, count: int) -> None:
    def ask(prompt: list[int], policy: Any) -> Any:
        return client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS)

    prompts = make_prompts(count)
    alone = [(await ask(prompt, LlmOnly())).tokens for prompt in prompts]
    together = await asyncio.gather(*(ask(prompt, LlmOnly()) for prompt in prompts))
    assert [answer.tokens for answer in together] == alone
    drafted = await asyncio.gather(*(ask(prompt, Speculative(4)) for prompt in prompts))
    assert [answer.tokens for answer in drafted] == alone
    accepted = sum(answer.finished.usage.num_accepted_draft_tokens for answer in drafted)
    assert 0 < accepted < sum(map(len, alone)), "drafts that are all right or all wrong test little"


@pytest.mark.parametrize("policy", [LlmOnly(), Threshold(0.1)], ids=str)
async def test_sampled_and_switched_answers_are_the_same_alone_and_at_once(client: AsyncClient, policy: Any) -> None:
    def ask(index: int, prompt: list[int]) -> Any:
        sampling = Sampling(temperature=0.9, top_p=0.95, seed=index)
        return client.answer(tokens=prompt, policy=policy, sampling=sampling, max_new_tokens=TOKENS)

    prompts = make_prompts(8)
    alone = [written(await ask(index, prompt)) for index, prompt in enumerate(prompts)]
    together = await asyncio.gather(*(ask(index, prompt) for index, prompt in enumerate(prompts)))
    assert [written(answer) for answer in together] == alone


async def test_a_killed_workers_answer_goes_on_with_the_same_tokens(stack: LocalStack, client: AsyncClient) -> None:
    """What was decoded token by token is computed again in chunks."""
    sampling = Sampling(temperature=1.0, seed=7)  # a greedy answer to such a prompt soon ends
    asked: dict[str, Any] = {"tokens": make_prompts(3)[2], "policy": LlmOnly(), "sampling": sampling}
    whole = await client.answer(**asked, max_new_tokens=300)
    events = client.generate(**asked, max_new_tokens=300)
    answer = await interrupted(events, stack.worker("llm"), runs_on(client))
    assert answer.tokens == whole.tokens


async def test_a_worker_says_that_it_is_batch_invariant(stack: LocalStack) -> None:
    for address in stack.worker_addresses:
        async with grpc.aio.insecure_channel(address) as channel:
            info = await worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest())
        assert info.batch_invariant
