"""Laws of shared prefixes over real processes: no answer differs with pages in common, and tenants never meet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Sampling, Threshold
from tests.support.breaking import free_pages, interrupted, runs_on
from tests.support.served import SMALL, Pair, check_kept, expected, start_stack, written

SYSTEM = [(7 * index + 11) % 290 + 5 for index in range(70)]
QUESTIONS = [[*SYSTEM, 40 + index, 41, 42 + 3 * index] for index in range(3)]
TAUS = (-1.0, 0.25, 1.0)
TOKENS = 30


@pytest.mark.slow
# All other laws run with the default, on a CPU "copy"; without pages in common, tests/laws/test_batching.py.
@pytest.mark.parametrize("mode", [pytest.param("off", marks=pytest.mark.soak), "share"])
async def test_answers_after_one_system_prompt_are_the_references(random_pair: Pair, mode: str) -> None:
    args = [*SMALL, "--prefix-cache", mode]
    with start_stack(random_pair, worker_args=args, router_args=["--run-ahead", "on"]) as stack:
        async with AsyncClient(stack.router_address, timeout_s=100) as client:
            asked = [(prompt, tau, salt) for prompt in QUESTIONS for tau in TAUS for salt in ("a", "b")]

            async def ask(prompt: list[int], tau: float, salt: str) -> Any:
                return await client.answer(
                    tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS, cache_salt=salt, guard=False
                )

            first = await ask(*asked[0])
            assert first.finished.usage.num_cached_tokens == 0
            other = await ask(QUESTIONS[0], TAUS[0], "c")
            assert other.finished.usage.num_cached_tokens == 0, "another tenant's"
            answers = await asyncio.gather(*(ask(*each) for each in asked))
            for (prompt, tau, _), answer in zip(asked, answers, strict=True):
                assert written(answer) == expected(random_pair.reference(prompt, tau, TOKENS))
                await check_kept(stack, client, answer, prompt)
            cached = sum(answer.finished.usage.num_cached_tokens for answer in answers)
            assert (cached > 0) == (mode != "off")
            if (
                mode != "off"
            ):  # each model of each tenant computes the prompt's 64 tokens in full pages once, or not at all
                assert cached >= 64 * (len(answers) - 2)
            sampled = [
                await client.answer(
                    tokens=QUESTIONS[1], policy=Threshold(0.3), sampling=Sampling(0.8, seed=3), cache_salt=salt
                )
                for salt in ("a", "a", "d")
            ]
            assert len({tuple(written(answer)) for answer in sampled}) == 1
            # A worker that is killed has lost its pages, and what others had of them.
            events = client.generate(
                tokens=QUESTIONS[2], policy=Threshold(0.25), max_new_tokens=150, cache_salt="a", guard=False
            )
            answer = await interrupted(events, stack.worker("llm"), runs_on(client))
            assert written(answer) == expected(random_pair.reference(QUESTIONS[2], 0.25, 150))
            async for trajectory in client.trajectories():
                await client.delete_trajectory(trajectory.session_id)
        for address in stack.worker_addresses:
            free, total = await free_pages(address)
            assert free == total
