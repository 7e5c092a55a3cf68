"""Bias, penalties and min_p of a served pair are the naive choice's, whoever writes, whatever fails on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evals.algorithm.reference import Authors, Rule, stitch
from evals.algorithm.reference import Threshold as Rising
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Chunk, LlmOnly, Policy, Sampling, SlmOnly, Speculative, Threshold
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack
from tests.support.served import Pair, another_router, check_kept, expected, written
from tests.support.shaped import Shaped

PROMPTS = [[7, 8, 9, 10, 11], list(range(30, 100))]
TOKENS = 40
WAYS = [
    Sampling(presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.2),
    Sampling(logit_bias={5: 3.0, 8: -100.0, 200: 2.0}),
    Sampling(0.9, 0.95, seed=3, min_p=0.05, logit_bias={17: 2.0}, frequency_penalty=1.0),
]
RULES: list[tuple[Policy, Rule]] = [
    (Threshold(0.3), Rising(0.3)),
    (LlmOnly(), Authors(lambda position: "llm")),
    (SlmOnly(), Authors(lambda position: "slm")),
]


def naive(pair: Pair, prompt: list[int], rule: Rule, how: Sampling, num: int = TOKENS) -> list[tuple[int, str]]:
    slm, llm = (Shaped(pair.model(role), pair.vocab_size, len(prompt), how) for role in ("slm", "llm"))
    stops = {pair.stop_token}
    return expected(stitch(slm, llm, prompt, rule, max_new_tokens=num, stop_tokens=stops).written)


@pytest.mark.parametrize("how", WAYS, ids=["penalties", "bias", "drawn"])
async def test_every_policy_is_the_naive_choice(
    stack: LocalStack, client: AsyncClient, random_pair: Pair, how: Sampling
) -> None:
    async def one(prompt: list[int], policy: Policy, rule: Rule) -> None:
        answer = await client.answer(tokens=prompt, policy=policy, sampling=how, max_new_tokens=TOKENS)
        assert written(answer) == naive(random_pair, prompt, rule, how)
        await check_kept(stack, client, answer, prompt)

    await asyncio.gather(*(one(prompt, *way) for prompt in PROMPTS for way in RULES))
    for prompt in PROMPTS:
        asks: dict[str, Any] = {"tokens": prompt, "sampling": how, "max_new_tokens": TOKENS}
        drafted, alone = await asyncio.gather(
            client.answer(policy=Speculative(4), **asks), client.answer(policy=LlmOnly(), **asks)
        )
        assert drafted.tokens == alone.tokens


async def test_another_router_goes_on_as_if_it_had_begun(
    stack: LocalStack, client: AsyncClient, random_pair: Pair
) -> None:
    """The tokens before count, whoever wrote them; a second answer of the session begins anew."""
    how, prompt, num = WAYS[2], PROMPTS[0], 200
    whole = naive(random_pair, prompt, Rising(0.3), how, num)
    asks: dict[str, Any] = {"policy": Threshold(0.3), "sampling": how, "session_id": "shaped"}

    async def cancel_amid() -> None:
        async for event in client.generate(tokens=prompt, max_new_tokens=num, **asks):
            if isinstance(event, Chunk):
                await client.cancel("shaped")

    with pytest.raises(RstitchError, match="cancelled"):
        await cancel_amid()
    assert len((await client.trajectory("shaped")).tokens) < len(prompt) + len(whole)
    async with another_router(stack) as other:
        answer = Answer.of([event async for event in other.attach("shaped")])
        assert written(answer) == whole
        second = await other.answer(tokens=[40, 41], max_new_tokens=TOKENS, **asks)
        before = [*prompt, *answer.tokens, 40, 41]
        assert written(second) == naive(random_pair, before, Rising(0.3), how)
