"""Laws 3, 5, 6 and 7 when parts fail: eviction, killed workers, killed routers. Nothing is lost, nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Chunk, LlmOnly, Sampling, Threshold
from rstitch.local.stack import LocalStack
from tests.support.breaking import free_pages, interrupted, long_prompts, runs_on
from tests.support.served import Pair, check_kept, expected, start_stack, stored_in_redis, written


@pytest.fixture(scope="module")
def small_stack(random_pair: Pair) -> Iterator[LocalStack]:
    """Both workers have pages for about three sessions only."""
    with start_stack(
        random_pair, worker_args=["--num-pages", "30", "--page-size", "8", "--measure-ms", "100"]
    ) as running:
        yield running


async def test_eviction_changes_nothing_and_leaks_nothing(small_stack: LocalStack, random_pair: Pair) -> None:
    asked = long_prompts(random_pair, 12, 60)
    async with AsyncClient(small_stack.router_address, timeout_s=100) as client:
        answers = await asyncio.gather(
            *(client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=60) for prompt, tau in asked)
        )
        for (prompt, tau), answer in zip(asked, answers, strict=True):
            assert written(answer) == expected(random_pair.reference(prompt, tau, 60))
            await check_kept(small_stack, client, answer, prompt)
        # Without eviction each model is fed the prompt and what the other wrote, once.
        fed = sum(answer.finished.usage.num_catch_up_tokens for answer in answers)
        assert fed > sum(2 * len(prompt) + 60 for prompt, _ in asked), "nothing was evicted"
        for answer in answers:
            await client.delete_trajectory(answer.session_id)
    for address in small_stack.worker_addresses:
        free, total = await free_pages(address)
        assert free == total


@pytest.mark.slow
@pytest.mark.parametrize("role", ["slm", "llm"])
async def test_a_killed_worker_changes_nothing(stack: LocalStack, random_pair: Pair, role: Any) -> None:
    ((prompt, tau),) = long_prompts(random_pair, 1, 300)
    async with AsyncClient(stack.router_address, timeout_s=100) as client:
        events = client.generate(tokens=prompt, policy=Threshold(tau), max_new_tokens=300)
        answer = await interrupted(events, stack.worker(role), runs_on(client))
        assert written(answer) == expected(random_pair.reference(prompt, tau, 300))
        await check_kept(stack, client, answer, prompt)


async def test_a_killed_router_loses_nothing(stack: LocalStack, random_pair: Pair) -> None:
    """The client re-attaches by itself; each token comes exactly once."""
    ((prompt, tau),) = long_prompts(random_pair, 1, 300)

    async def is_running(session_id: str) -> bool:
        return len(stored_in_redis(stack.redis_url, session_id)) < len(prompt) + 300

    async with AsyncClient(stack.router_address, timeout_s=100, reconnect_s=60) as client:
        events = client.generate(tokens=prompt, policy=Threshold(tau), max_new_tokens=300)
        answer = await interrupted(events, stack.router, is_running)
        assert written(answer) == expected(random_pair.reference(prompt, tau, 300))
        await check_kept(stack, client, answer, prompt)
        assert (await client.trajectory(answer.session_id)).epoch == 2


@pytest.mark.slow
async def test_sampling_is_the_same_after_a_restart(stack: LocalStack) -> None:
    sampling = Sampling(temperature=0.8, seed=7)

    async def ask() -> list[tuple[int, str]]:
        async with AsyncClient(stack.router_address, timeout_s=60) as client:
            return written(
                await client.answer(tokens=[9, 8, 7], policy=LlmOnly(), sampling=sampling, max_new_tokens=60)
            )

    before = await ask()
    await asyncio.to_thread(stack.worker("llm").kill)
    await asyncio.to_thread(stack.worker("llm").restart)
    assert await ask() == before


async def test_a_client_that_leaves_frees_both_workers(stack: LocalStack, random_pair: Pair) -> None:
    """A cancelled stream, then its deletion: no page stays behind on either worker."""
    ((prompt, tau),) = long_prompts(random_pair, 1, 300)
    async with AsyncClient(stack.router_address, timeout_s=60) as client:
        session_id = "leaver"
        async for event in client.generate(
            tokens=prompt, policy=Threshold(tau), max_new_tokens=300, session_id=session_id
        ):
            if isinstance(event, Chunk):
                break
        async for trajectory in client.trajectories():
            await client.delete_trajectory(trajectory.session_id)
    for address in stack.worker_addresses:
        free, total = await free_pages(address)
        assert free == total
