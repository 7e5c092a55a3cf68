"""Laws 3, 5, 6 and 7 with run-ahead on: the answers are those of Algorithm 1, to the token, the author and the entropy.

The LLM of this pair is the SLM with a little noise, so that it often writes what the SLM proposed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Sampling, Threshold
from rstitch.local.stack import LocalStack, Part
from tests.support.breaking import free_pages, interrupted, long_prompts, runs_on
from tests.support.served import Pair, another_router, check_kept, expected, written

TAUS = (0.1, 0.25, 0.35)
TOKENS = 60


@pytest.fixture(scope="module")
def router(kindred_stack: LocalStack) -> Part:
    """One more router of the kindred stack, which runs ahead."""
    return kindred_stack.start_router("--run-ahead", "on")


@pytest.fixture
async def ahead(router: Part) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(router.address, timeout_s=100) as connected:
        yield connected


def some_prompts(count: int) -> list[tuple[list[int], float]]:
    rng = random.Random(5)
    return [([rng.randrange(5, 300) for _ in range(rng.randrange(1, 60))], rng.choice(TAUS)) for _ in range(count)]


def check_usage(answer: Answer) -> None:
    """One discarded proposal per hand-over to the LLM, whether its entropy was known ahead or not."""
    usage = answer.finished.usage
    assert usage.num_switches == len(answer.switches)
    assert usage.num_discarded_proposals == sum(str(switch.from_model) == "slm" for switch in answer.switches)
    assert usage.num_run_ahead_tokens <= usage.num_slm_tokens


async def test_threshold_equals_the_reference(
    kindred_stack: LocalStack, ahead: AsyncClient, kindred_pair: Pair
) -> None:
    usages = []
    for prompt, tau in some_prompts(6):
        reference = kindred_pair.reference(prompt, tau, TOKENS)
        answer = await ahead.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS)
        assert written(answer) == expected(reference)
        entropies = [entropy for chunk in answer.chunks for entropy in chunk.entropies]
        assert entropies == pytest.approx([token.entropy for token in reference], abs=1e-6)
        await check_kept(kindred_stack, ahead, answer, prompt)
        check_usage(answer)
        usages.append(answer.finished.usage)
    assert sum(usage.num_run_ahead_tokens + usage.num_run_ahead_discarded for usage in usages) > 0


@pytest.mark.parametrize("count", [14, pytest.param(32, marks=pytest.mark.soak)])
async def test_many_sessions_at_once_equal_the_reference(
    kindred_stack: LocalStack, ahead: AsyncClient, kindred_pair: Pair, count: int
) -> None:
    asked = some_prompts(count)
    answers = await asyncio.gather(
        *(ahead.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS) for prompt, tau in asked)
    )
    for (prompt, tau), answer in zip(asked, answers, strict=True):
        assert written(answer) == expected(kindred_pair.reference(prompt, tau, TOKENS))
        await check_kept(kindred_stack, ahead, answer, prompt)
        check_usage(answer)


async def test_limits_and_hysteresis_equal_the_reference(ahead: AsyncClient, kindred_pair: Pair) -> None:
    ((prompt, tau),) = long_prompts(kindred_pair, 1, TOKENS)
    for back in (0.1, 0.3):
        whole = kindred_pair.reference(prompt, tau, TOKENS, tau_return=back)
        limits = range(1, TOKENS + 1, 4)
        answers = await asyncio.gather(
            *(ahead.answer(tokens=prompt, policy=Threshold(tau, back), max_new_tokens=limit) for limit in limits)
        )
        for limit, answer in zip(limits, answers, strict=True):
            assert written(answer) == expected(whole[:limit])


async def three_ways(client: AsyncClient, prompt: list[int], tau: float) -> list[tuple[Any, str]]:
    """A seeded answer, the same up to a stop string, and another turn after the first."""
    policy, sampling = Threshold(tau), Sampling(temperature=0.7, top_p=0.95, seed=3)
    seeded = await client.answer(tokens=prompt, policy=policy, sampling=sampling, max_new_tokens=TOKENS)
    stop = [seeded.text[len(seeded.text) // 2 :][:2] or "x"]
    cut = await client.answer(tokens=prompt, policy=policy, sampling=sampling, max_new_tokens=TOKENS, stop=stop)
    turn = await client.answer(tokens=[40, 41], policy=policy, max_new_tokens=TOKENS, session_id=seeded.session_id)
    return [(written(answer), answer.text) for answer in (seeded, cut, turn)]


async def test_seeds_stop_strings_and_another_turn_are_as_without(
    ahead: AsyncClient, kindred_stack: LocalStack
) -> None:
    asked = some_prompts(6)
    on = await asyncio.gather(*(three_ways(ahead, *each) for each in asked))
    async with another_router(kindred_stack, run_ahead="off") as client:
        assert await asyncio.gather(*(three_ways(client, *each) for each in asked)) == on
    async for trajectory in ahead.trajectories():
        await ahead.delete_trajectory(trajectory.session_id)
    for address in kindred_stack.worker_addresses:
        free, total = await free_pages(address)
        assert free == total


@pytest.mark.slow
@pytest.mark.parametrize("role", ["slm", "llm"])
async def test_a_killed_worker_changes_nothing(
    kindred_stack: LocalStack, ahead: AsyncClient, kindred_pair: Pair, role: Any
) -> None:
    ((prompt, tau),) = long_prompts(kindred_pair, 1, 300)
    events = ahead.generate(tokens=prompt, policy=Threshold(tau), max_new_tokens=300)
    answer = await interrupted(events, kindred_stack.worker(role), runs_on(ahead))
    assert written(answer) == expected(kindred_pair.reference(prompt, tau, 300))
    await check_kept(kindred_stack, ahead, answer, prompt)
