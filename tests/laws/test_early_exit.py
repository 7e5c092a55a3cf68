"""Early exit on the real stack equals the naive reference: random pair and bundled pair, alone and among others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from transformers import AutoTokenizer

from evals.algorithm.reference import EarlyExit as Rule
from evals.algorithm.reference import Threshold as Tau
from evals.tasks.tiny.arithmetic import problems
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, EarlyExit, LlmOnly, Message, Speculative, Threshold
from rstitch.local.stack import LocalStack
from tests.support.pairs import make_tokenizer
from tests.support.served import Pair, another_router, check_kept, expected, written

TOKENS = 60
TAU = 0.3
PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 5, [50]]
# Letters and signs: about one token in ten.
BOUNDARIES = tuple("aeioutsckmP0.,:>")


def rule_of(asked: EarlyExit, tokenizer: Any, thinking_end: str = "</think>") -> Rule:
    return Rule(
        asked.threshold,
        asked.boundaries,
        tuple(tokenizer(asked.prompt, add_special_tokens=False).input_ids),
        asked.end,
        asked.max_trial_tokens or 32,
        thinking_end,
        tokenizer.decode,
    )


def check(answer: Answer, pair: Pair, prompt: list[int], tau: float, rule: Rule, max_new_tokens: int) -> None:
    reference = pair.stitched(prompt, Tau(tau), max_new_tokens, rule)
    tokens, exited = reference.written, reference.exited
    assert written(answer) == expected(tokens)
    taken = answer.finished.early_exit
    assert (taken is None) == (exited is None)
    if taken is not None and exited is not None:
        assert taken.position == exited[0]
        assert taken.confidence == pytest.approx(exited[1], abs=1e-5)
    entropies = [entropy for chunk in answer.chunks for entropy in chunk.entropies]
    assert entropies == pytest.approx([token.entropy for token in tokens], abs=1e-6)


async def test_it_equals_the_reference_on_a_random_pair(stack: LocalStack, random_pair: Pair) -> None:
    thresholds = ((0.3, 4), (0.6, 8), (0.97, 2))
    asked = [EarlyExit(threshold, BOUNDARIES, "=>", "e", num) for threshold, num in thresholds]
    cases = [(prompt, early_exit) for prompt in PROMPTS for early_exit in asked]

    async def answers(client: AsyncClient) -> list[Answer]:
        return await asyncio.gather(
            *(
                client.answer(tokens=prompt, policy=Threshold(TAU), early_exit=early_exit, max_new_tokens=TOKENS)
                for prompt, early_exit in cases
            )
        )

    async with (
        another_router(stack, run_ahead="off") as client,
        another_router(stack, run_ahead="on", catch_up_tokens=4) as ahead,
    ):
        found = await answers(client)
        for (prompt, early_exit), answer in zip(cases, found, strict=True):
            check(answer, random_pair, prompt, TAU, rule_of(early_exit, make_tokenizer()), TOKENS)
            await check_kept(stack, client, answer, prompt)
        again = await answers(ahead)
        assert [written(answer) for answer in again] == [written(answer) for answer in found]
    exits = [answer.finished.early_exit is not None for answer in found]
    assert 0 < sum(exits) < len(exits)
    assert sum(answer.finished.usage.num_trials for answer in found) > sum(exits)
    assert {model for answer in found for _, model in written(answer)} == {"slm", "llm"}


async def test_with_drafts_it_is_that_of_the_llm_alone(client: AsyncClient) -> None:
    for prompt, threshold in zip(PROMPTS, (0.2, 0.5, 0.97), strict=True):
        early_exit = EarlyExit(threshold, BOUNDARIES, "=>", "e", 4)
        policies = (LlmOnly(), Speculative(4))
        llm, drafted = [
            await client.answer(tokens=prompt, policy=policy, early_exit=early_exit, max_new_tokens=40)
            for policy in policies
        ]
        assert drafted.tokens == llm.tokens
        assert drafted.finished.early_exit == llm.finished.early_exit
        assert drafted.finished.usage.num_trials == llm.finished.usage.num_trials > 0


@pytest.mark.slow
async def test_the_bundled_pair_asks_in_its_own_words(bundled_pair: Pair, bundled_stack: LocalStack) -> None:
    """Nothing but a threshold is named: the rest is in the model's folder."""
    pair, stack = bundled_pair, bundled_stack
    tokenizer = AutoTokenizer.from_pretrained(pair.llm_folder)
    style = EarlyExit(0.95, (".\n",), "</think>\n", "}")
    async with AsyncClient(stack.router_address, timeout_s=100) as client:
        for index, problem in enumerate(problems("dev", 2)):
            chat = [{"role": "user", "content": problem.question}]
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            threshold = (0.9, 1.0)[index]
            answer = await client.answer(
                chat=[Message(**chat[0])],
                policy=Threshold(0.02),
                early_exit=EarlyExit(threshold),
                max_new_tokens=300,
            )
            rule = rule_of(replace(style, threshold=threshold), tokenizer)
            check(answer, pair, prompt, 0.02, rule, 300)
            await check_kept(stack, client, answer, prompt)
            assert "</think>" in answer.text
            assert answer.finished.usage.num_trials > 0
            assert (answer.finished.early_exit is None) == (threshold == 1)
