"""However a worker groups its tokens into messages, the answer is the same; and where its time went adds up."""

from __future__ import annotations

import asyncio

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Threshold
from tests.support.served import SMALL, Pair, check_kept, expected, start_stack, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100))]
TOKENS = 60

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("flush_ms", [0, pytest.param(15, marks=pytest.mark.soak), 3_600_000])
async def test_messages_of_any_size_carry_the_same_answer(random_pair: Pair, flush_ms: int) -> None:
    args = {"worker_args": [*SMALL, "--flush-ms", str(flush_ms)], "router_args": ["--catch-up-tokens", "0"]}
    with start_stack(random_pair, **args) as stack:
        async with AsyncClient(stack.router_address, timeout_s=100) as client:
            asked = [(prompt, tau) for prompt in PROMPTS for tau in (-1.0, 0.25, 0.35, 1.0)]
            answers = await asyncio.gather(
                *(client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS) for prompt, tau in asked)
            )
            for (prompt, tau), answer in zip(asked, answers, strict=True):
                assert written(answer) == expected(random_pair.reference(prompt, tau, TOKENS))
                await check_kept(stack, client, answer, prompt)
            for policy in (LlmOnly(), Threshold(0.3)):
                answer = await client.answer(tokens=PROMPTS[0], policy=policy, max_new_tokens=TOKENS)
                usage = answer.finished.usage
                parts = usage.breakdown
                disjoint = (
                    parts.slm_forward_us,
                    parts.llm_forward_us,
                    parts.scheduling_us,
                    parts.waiting_us,
                    parts.transport_us,
                    parts.store_us,
                    parts.routing_us,
                )
                assert min(*disjoint, parts.background_us) >= 0
                # Each step's times are rounded to a microsecond.
                assert 0 < sum(disjoint) <= usage.total_time_us + 4 * (usage.num_tokens + usage.num_switches)
                assert parts.slm_forward_us + parts.llm_forward_us <= usage.slm_forward_us + usage.llm_forward_us
                assert (parts.slm_forward_us > 0) == (usage.num_slm_tokens > 0)
                assert (await client.trajectory(answer.session_id)).finished == answer.finished
