"""Law 3 for the other policies: each equals the naive reference, alone and among others, ahead or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evals.algorithm.reference import Author, Authors, Token
from router_svc.policies.kinds import Random as Coin
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Budget, Confidence, LlmOnly, Policy, Random, Signal, SlmOnly, Threshold
from rstitch.local.stack import LocalStack
from tests.support.served import Pair, another_router, check_kept, expected, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 5]
TOKENS = 40
# Of the random pair: bounds at which both models write.
SIGNALS: list[tuple[Policy, dict[str, Any]]] = [
    (Threshold(0.75, signal=Signal.CONFIDENCE), {"tau": 0.75, "signal": "confidence"}),
    (Confidence(0.3), {"tau": 1 - 0.3, "signal": "confidence"}),
    (Threshold(0.9, 0.8, signal=Signal.MARGIN), {"tau": 0.9, "tau_return": 0.8, "signal": "margin"}),
    *(
        (
            Threshold(tau, signal=Signal.ENTROPY_WINDOW, window=window),
            {"tau": tau, "signal": "entropy_window", "window": window},
        )
        for tau, window in [(0.35, 1), (0.35, 4), (0.3, 16)]
    ),
]


def by_coin(pair: Pair, prompt: list[int], slm_probability: float, seed: int) -> list[Token]:
    coin = Coin(slm_probability, seed)

    def author(position: int) -> Author:
        return "slm" if coin.author(position).label == "slm" else "llm"

    return pair.stitched(prompt, Authors(author), TOKENS).written


@pytest.mark.parametrize(("policy", "rule"), SIGNALS, ids=[str(rule) for _, rule in SIGNALS])
async def test_every_signal_equals_the_reference(
    stack: LocalStack, client: AsyncClient, random_pair: Pair, policy: Policy, rule: dict[str, Any]
) -> None:
    async def one(prompt: list[int]) -> set[str]:
        reference = random_pair.reference(prompt, max_new_tokens=TOKENS, **rule)
        answer = await client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS)
        assert written(answer) == expected(reference)
        signals = [value for chunk in answer.chunks for value in chunk.uncertainties]
        assert signals == pytest.approx([token.uncertainty for token in reference], abs=1e-6)
        await check_kept(stack, client, answer, prompt)
        return {token.model for token in reference}

    authors = await asyncio.gather(*map(one, PROMPTS))
    assert set().union(*authors) == {"slm", "llm"}, "a bound at which nothing is switched tests nothing"


@pytest.mark.parametrize("slm_probability", [0.0, 0.2, 0.85, 1.0])
async def test_random_equals_the_reference(
    stack: LocalStack, client: AsyncClient, random_pair: Pair, slm_probability: float
) -> None:
    for seed, prompt in enumerate(PROMPTS):
        answer = await client.answer(tokens=prompt, policy=Random(slm_probability, seed), max_new_tokens=TOKENS)
        assert written(answer) == expected(by_coin(random_pair, prompt, slm_probability, seed))
        await check_kept(stack, client, answer, prompt)


async def test_the_ends_are_the_models_alone(client: AsyncClient) -> None:
    prompt = PROMPTS[0]
    alone = {
        policy: written(await client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS))
        for policy in (LlmOnly(), SlmOnly())
    }
    ends: list[tuple[Policy, Policy]] = [
        *((Threshold(-0.5, signal=signal), LlmOnly()) for signal in list(Signal)[1:]),
        *((Threshold(1.0, signal=signal), SlmOnly()) for signal in list(Signal)[1:]),
        (Confidence(0.0), SlmOnly()),
        (Random(0.0), LlmOnly()),
        (Random(1.0), SlmOnly()),
    ]
    for policy, same in ends:
        answer = await client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS)
        assert written(answer) == alone[same], policy


async def test_a_budget_of_the_llm_is_kept_and_told(client: AsyncClient, random_pair: Pair) -> None:
    prompt = PROMPTS[0]
    reference = expected(random_pair.reference(prompt, 0.3, TOKENS))
    authors = [author for _, author in reference]
    for llm_tokens in (0, 3, 10):
        answer = await client.answer(
            tokens=prompt, policy=Threshold(0.3), budget=Budget(llm_tokens=llm_tokens), max_new_tokens=TOKENS
        )
        num_same = next(n for n in range(TOKENS) if authors[: n + 1].count("llm") > llm_tokens)
        assert written(answer)[:num_same] == reference[:num_same]
        assert {author for _, author in written(answer)[num_same:]} == {"slm"}
        assert answer.finished.budget_spent == ("llm_tokens",)
        stopped = await client.answer(
            tokens=prompt, policy=Threshold(0.3), budget=Budget(llm_tokens, stop=True), max_new_tokens=TOKENS
        )
        assert written(stopped) == reference[:num_same]
        assert stopped.finished.reason == "budget"


async def test_run_ahead_and_catch_up_change_nothing(stack: LocalStack, random_pair: Pair) -> None:
    for run_ahead, catch_up_tokens in [("on", 1), ("off", 0)]:
        async with another_router(stack, run_ahead=run_ahead, catch_up_tokens=catch_up_tokens) as client:
            for policy, rule in SIGNALS:
                reference = random_pair.reference(PROMPTS[1], max_new_tokens=TOKENS, **rule)
                answer = await client.answer(tokens=PROMPTS[1], policy=policy, max_new_tokens=TOKENS)
                assert written(answer) == expected(reference), (policy, run_ahead)
