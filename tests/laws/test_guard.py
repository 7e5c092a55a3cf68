"""With the guard on, an answer is that of the policy that `finished` names, token for token, whichever kind it was."""

from __future__ import annotations

import asyncio

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Threshold
from rstitch.local.stack import LocalStack
from tests.support.served import Pair, check_kept, expected, written

TAU, TOKENS = 0.3, 24
PROMPTS = [[7 + num, 8, 9, 10, 11 + num] for num in range(16)]

pytestmark = pytest.mark.slow


async def test_whatever_the_guard_chooses_the_answer_is_that_of_the_policy_it_names(
    stack: LocalStack, client: AsyncClient, random_pair: Pair
) -> None:
    left = iter(PROMPTS * 2)
    kinds = set()

    async def ask() -> None:
        for prompt in left:
            answer = await client.answer(tokens=prompt, policy=Threshold(TAU), max_new_tokens=TOKENS, guard=True)
            guarded = isinstance(answer.finished.policy, LlmOnly)
            assert guarded == bool(answer.finished.guard_reason)
            assert written(answer) == expected(random_pair.reference(prompt, -1.0 if guarded else TAU, TOKENS))
            await check_kept(stack, client, answer, prompt)
            kinds.add(guarded)

    await asyncio.gather(*(ask() for _ in range(4)))
    assert kinds == {True, False}
