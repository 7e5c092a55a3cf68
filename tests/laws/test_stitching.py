"""Laws 1, 2, 3, 5 and 7 of the served system, through the client, against transformers and the naive reference."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Sampling, SlmOnly, Threshold
from rstitch.local.stack import LocalStack
from tests.support.engines import generate
from tests.support.served import TOLERANCE, Pair, check_kept, expected, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100))]
TAUS = (0.1, 0.25, 0.35, 0.45)
TOKENS = 80


@pytest.mark.parametrize(("role", "policy"), [("llm", LlmOnly()), ("slm", SlmOnly())])
async def test_one_model_alone_equals_transformers_generate(
    stack: LocalStack, client: AsyncClient, random_pair: Pair, role: str, policy: Any
) -> None:
    for prompt in PROMPTS:
        answer = await client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS)
        assert list(answer.tokens) == generate(random_pair.model(role), prompt, TOKENS)
        assert {str(chunk.model) for chunk in answer.chunks} == {role}
        await check_kept(stack, client, answer, prompt)


@pytest.mark.parametrize(("taus", "policy"), [((-1.0, -1e-9), LlmOnly()), ((1.0, 2.0), SlmOnly())])
async def test_the_ends_of_tau_are_the_models_alone(client: AsyncClient, taus: tuple[float, ...], policy: Any) -> None:
    for prompt in PROMPTS:
        alone = await client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS)
        for tau in taus:
            answer = await client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS)
            assert written(answer) == written(alone)


@pytest.mark.parametrize("tau", TAUS)
async def test_threshold_equals_the_reference(
    stack: LocalStack, client: AsyncClient, random_pair: Pair, tau: float
) -> None:
    for prompt in PROMPTS:
        reference = random_pair.reference(prompt, tau, TOKENS)
        answer = await client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS)
        assert written(answer) == expected(reference)
        entropies = [entropy for chunk in answer.chunks for entropy in chunk.entropies]
        assert entropies == pytest.approx([token.entropy for token in reference], abs=TOLERANCE)
        await check_kept(stack, client, answer, prompt)


async def test_hysteresis_equals_the_reference(client: AsyncClient, random_pair: Pair) -> None:
    for prompt in PROMPTS:
        reference = random_pair.reference(prompt, 0.35, TOKENS, tau_return=0.15)
        answer = await client.answer(tokens=prompt, policy=Threshold(0.35, 0.15), max_new_tokens=TOKENS)
        assert written(answer) == expected(reference)


async def test_switches_and_usage_tell_what_happened(client: AsyncClient) -> None:
    answer = await client.answer(tokens=PROMPTS[0], policy=Threshold(0.3), max_new_tokens=TOKENS)
    # Who writes a position is told by the switches alone: the SLM starts, the last switch at or before it decides.
    writers = []
    for index in range(len(answer.tokens)):
        before = [s for s in answer.switches if s.position <= len(PROMPTS[0]) + index]
        writers.append(str(before[-1].to_model) if before else "slm")
    assert writers == [model for _, model in written(answer)]
    assert {"slm", "llm"} == set(writers)
    models = ["slm", *(str(s.to_model) for s in answer.switches)]
    assert [str(s.from_model) for s in answer.switches] == models[:-1]
    usage = answer.finished.usage
    assert usage.num_switches == len(answer.switches)
    assert usage.num_slm_tokens + usage.num_llm_tokens == len(answer.tokens)
    assert usage.num_discarded_proposals == sum(1 for s in answer.switches if str(s.from_model) == "slm")
    assert usage.num_prompt_tokens == len(PROMPTS[0])
    assert usage.num_catch_up_tokens >= len(PROMPTS[0])
    assert all(s.entropy > 0.3 for s in answer.switches if str(s.from_model) == "slm")
    assert all(s.entropy <= 0.3 for s in answer.switches if str(s.from_model) == "llm")


async def test_thirty_two_sessions_at_once_equal_the_reference(
    stack: LocalStack, client: AsyncClient, random_pair: Pair
) -> None:
    rng = random.Random(5)
    asked = [([rng.randrange(5, 300) for _ in range(rng.randrange(1, 60))], rng.choice(TAUS)) for _ in range(32)]
    answers = await asyncio.gather(
        *(client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=60) for prompt, tau in asked)
    )
    for (prompt, tau), answer in zip(asked, answers, strict=True):
        assert written(answer) == expected(random_pair.reference(prompt, tau, 60))
        await check_kept(stack, client, answer, prompt)


@pytest.mark.parametrize("policy", [LlmOnly(), Threshold(0.3)])
async def test_seeded_sampling_is_the_same_alone_and_among_others(client: AsyncClient, policy: Any) -> None:
    def ask(index: int) -> Any:
        sampling = Sampling(temperature=0.9, top_p=0.95, seed=index)
        return client.answer(tokens=PROMPTS[index % 4], policy=policy, sampling=sampling, max_new_tokens=40)

    alone = [written(await ask(index)) for index in range(8)]
    among = await asyncio.gather(*(ask(index) for index in range(8)))
    assert [written(answer) for answer in among] == alone
    assert len({str(tokens) for tokens in alone}) == 8


async def test_a_second_turn_goes_on_from_the_trajectory(
    stack: LocalStack, client: AsyncClient, random_pair: Pair
) -> None:
    first = await client.answer(tokens=PROMPTS[0], policy=Threshold(0.3), max_new_tokens=20)
    second = await client.answer(
        tokens=[40, 41, 42], policy=Threshold(0.3), max_new_tokens=20, session_id=first.session_id
    )
    prompt = [*PROMPTS[0], *first.tokens, 40, 41, 42]
    assert written(second) == expected(random_pair.reference(prompt, 0.3, 20))
    trajectory = await client.trajectory(first.session_id)
    assert list(trajectory.tokens) == [*prompt, *second.tokens]
