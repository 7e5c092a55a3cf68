"""Details of tokens are those of an uncached forward, on every policy, whatever fails; they change no token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch

from rstitch.client.aio import AsyncClient
from rstitch.client.types import (
    Answer,
    Details,
    Event,
    LlmOnly,
    Policy,
    Sampling,
    SlmOnly,
    Speculative,
    Threshold,
    TokenDetail,
)
from rstitch.local.stack import LocalStack
from tests.support.breaking import interrupted, long_prompts, runs_on
from tests.support.served import Pair, another_router, check_kept, written

PROMPTS = [[7, 8, 9, 10, 11], [50], list(range(30, 100))]
TOKENS = 40
POLICIES: list[Policy] = [Threshold(0.3), LlmOnly(), SlmOnly(), Speculative(4)]


def naive(pair: Pair, role: str, tokens: list[int]) -> Any:
    """The log-probabilities behind each token, by one forward without a cache."""
    with torch.inference_mode():
        return pair.model(role)(torch.tensor([tokens]), use_cache=False).logits[0, :, : pair.vocab_size].log_softmax(-1)


def check_details(pair: Pair, prompt: list[int], answer: Answer, top: int, *, by_llm: bool = False) -> None:
    told = [(str(chunk.model), detail) for chunk in answer.chunks for detail in chunk.details]
    assert len(told) == len(answer.tokens)
    whole = [*prompt, *answer.tokens]
    logprobs = {role: naive(pair, role, whole) for role in ("slm", "llm")}
    for index, (role, detail) in enumerate(told):
        own = logprobs["llm" if by_llm else role][len(prompt) + index - 1]
        assert detail.logprob == pytest.approx(float(own[answer.tokens[index]]), abs=1e-5)
        values, ids = own.sort(descending=True, stable=True)
        assert [other.token for other in detail.alternatives] == ids[:top].tolist()
        assert [other.logprob for other in detail.alternatives] == pytest.approx(values[:top].tolist(), abs=1e-5)
    assert b"".join(detail.text for _, detail in told).decode(errors="replace") == answer.text


async def kept(client: AsyncClient, answer: Answer) -> list[TokenDetail]:
    segments = (await client.trajectory(answer.session_id, details=True)).segments
    return [detail for segment in segments for detail in segment.details]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, 0.95, seed=3)], ids=["greedy", "drawn"])
async def test_they_are_those_of_a_naive_forward(
    stack: LocalStack, client: AsyncClient, random_pair: Pair, sampling: Sampling
) -> None:
    async def one(prompt: list[int], policy: Policy) -> None:
        asks: dict[str, Any] = {"tokens": prompt, "policy": policy, "sampling": sampling, "max_new_tokens": TOKENS}
        answer, plain = await asyncio.gather(client.answer(**asks, details=Details(5)), client.answer(**asks))
        assert written(answer) == written(plain)
        assert plain.details == ()
        check_details(random_pair, prompt, answer, 5, by_llm=isinstance(policy, Speculative))
        await check_kept(stack, client, answer, prompt)
        assert await kept(client, answer) == list(answer.details)

    await asyncio.gather(*(one(prompt, policy) for prompt in PROMPTS for policy in POLICIES))


@pytest.mark.slow
@pytest.mark.parametrize("role", ["slm", "llm"])
async def test_a_killed_worker_and_another_router_change_none(
    stack: LocalStack, client: AsyncClient, random_pair: Pair, role: Any
) -> None:
    ((prompt, tau),) = long_prompts(random_pair, 1, 300)
    events: AsyncIterator[Event] = client.generate(
        tokens=prompt, policy=Threshold(tau), max_new_tokens=300, details=Details(2)
    )
    answer = await interrupted(events, stack.worker(role), runs_on(client))
    check_details(random_pair, prompt, answer, 2)
    async with another_router(stack) as other:
        again = Answer.of([event async for event in other.attach(answer.session_id)])
        assert again.details == answer.details
        assert await kept(other, answer) == list(answer.details)
