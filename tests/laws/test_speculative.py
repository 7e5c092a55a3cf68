"""Law 4: `speculative` is `llm_only`, greedy and sampled, alone and among others, whatever is cut short or killed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, LlmOnly, Sampling, Speculative
from rstitch.local.stack import LocalStack
from tests.support.breaking import Both, interrupted, runs_on
from tests.support.engines import generate
from tests.support.pairs import VOCAB_SIZE
from tests.support.served import Pair, check_kept, stored_in_redis, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100))]
TOKENS = 40
DRAFTS = [Speculative(4), Speculative(7, min_confidence=0.4), Speculative(64)]


@pytest.fixture
async def client(kindred_stack: LocalStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(kindred_stack.router_address, timeout_s=100, reconnect_s=60) as connected:
        yield connected


def check_usage(answer: Answer) -> None:
    """An accepted token is the SLM's, and every other the LLM's."""
    usage, authors = answer.finished.usage, [author for _, author in written(answer)]
    assert usage.num_accepted_draft_tokens == usage.num_slm_tokens == authors.count("slm")
    assert usage.num_llm_tokens == authors.count("llm")
    assert usage.num_accepted_draft_tokens <= usage.num_draft_tokens
    assert usage.num_switches == len(answer.switches)
    assert {switch.reason for switch in answer.switches} <= {"verification", "draft"}


@pytest.mark.parametrize("policy", DRAFTS, ids=str)
async def test_greedy_it_is_the_llm_alone(
    kindred_stack: LocalStack, client: AsyncClient, kindred_pair: Pair, policy: Speculative
) -> None:
    accepted = drafted = 0
    for prompt in PROMPTS:
        answer = await client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS)
        assert list(answer.tokens) == generate(kindred_pair.model("llm"), prompt, TOKENS)
        check_usage(answer)
        await check_kept(kindred_stack, client, answer, prompt)
        accepted += answer.finished.usage.num_accepted_draft_tokens
        drafted += answer.finished.usage.num_draft_tokens
    assert 0 < accepted < drafted, "drafts that are all right or all wrong test little"


async def test_sampled_and_among_others_it_is_the_llm_alone(client: AsyncClient) -> None:
    rng = random.Random(5)

    def ask(index: int, policy: Any) -> Any:
        asked = random.Random(index)
        prompt = [asked.randrange(5, 300) for _ in range(asked.randrange(1, 60))]
        sampling = asked.choice([Sampling(), Sampling(0.9, seed=index), Sampling(1.3, 0.8, 20, seed=index)])
        return client.answer(tokens=prompt, policy=policy, sampling=sampling, max_new_tokens=TOKENS)

    alone = await asyncio.gather(*(ask(index, LlmOnly()) for index in range(16)))
    among = await asyncio.gather(*(ask(index, rng.choice(DRAFTS)) for index in range(16)))
    assert [answer.tokens for answer in among] == [answer.tokens for answer in alone]
    for answer in among:
        check_usage(answer)


async def test_sampled_it_has_the_llms_distribution(client: AsyncClient, kindred_pair: Pair) -> None:
    """Two tokens over many seeds against their exact joint distribution; both are drafted and verified."""
    draws, temperature, top_k, prompt = 150, 2.0, 3, PROMPTS[0]
    sampling = [Sampling(temperature, top_k=top_k, seed=seed) for seed in range(draws)]
    counts: Counter[tuple[int, ...]] = Counter()
    for start in range(0, draws, 30):
        answers = await asyncio.gather(
            *(
                client.answer(tokens=prompt, policy=Speculative(2), sampling=one, max_new_tokens=3)
                for one in sampling[start : start + 30]
            )
        )
        counts.update(tuple(answer.tokens[:2]) for answer in answers)
    expected: dict[tuple[int, ...], float] = {}

    def distribution(tokens: list[int]) -> dict[int, float]:
        with torch.inference_mode():
            logits = kindred_pair.model("llm")(torch.tensor([tokens])).logits[0, -1, :VOCAB_SIZE]
        values, ids = logits.topk(top_k)
        return dict(zip(ids.tolist(), (values / temperature).softmax(-1).tolist(), strict=True))

    for first, p in distribution(prompt).items():
        for second, q in distribution([*prompt, first]).items():
            expected[first, second] = draws * p * q
    assert counts.keys() <= expected.keys()
    cells = [cell for cell, number in expected.items() if number >= 5]
    statistic = sum((counts[cell] - expected[cell]) ** 2 / expected[cell] for cell in cells)
    assert len(cells) > 5
    assert statistic < len(cells) + 4 * (2 * len(cells)) ** 0.5


async def test_stop_strings_and_limits_cut_it_where_they_cut_the_llm(client: AsyncClient) -> None:
    prompt = PROMPTS[1]
    whole = await client.answer(tokens=prompt, policy=LlmOnly(), max_new_tokens=TOKENS)
    for num in (1, 2, 3, 5, 6):
        answer = await client.answer(tokens=prompt, policy=Speculative(4), max_new_tokens=num)
        assert answer.tokens == whole.tokens[:num]
    for begin in range(3, 30, 5):
        stop = (whole.text[begin : begin + 2],)
        cut = await client.answer(tokens=prompt, policy=LlmOnly(), max_new_tokens=TOKENS, stop=stop)
        answer = await client.answer(tokens=prompt, policy=Speculative(5), max_new_tokens=TOKENS, stop=stop)
        assert (answer.tokens, answer.text, answer.finished.reason) == (cut.tokens, cut.text, cut.finished.reason)
        check_usage(answer)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["workers", "router"])
async def test_killed_parts_change_nothing(
    kindred_stack: LocalStack, client: AsyncClient, kindred_pair: Pair, killed: str
) -> None:
    num_tokens = 200
    prompt, expected = next(
        (prompt, tokens)
        for prompt in ([9 + n, 8, 7] for n in range(50))
        if len(tokens := generate(kindred_pair.model("llm"), prompt, num_tokens)) == num_tokens
    )

    async def is_running(session_id: str) -> bool:
        if killed == "router":
            return len(stored_in_redis(kindred_stack.redis_url, session_id)) < len(prompt) + num_tokens
        return await runs_on(client)(session_id)

    part: Any = (
        kindred_stack.router if killed == "router" else Both(kindred_stack.worker("slm"), kindred_stack.worker("llm"))
    )
    events = client.generate(tokens=prompt, policy=Speculative(4), max_new_tokens=num_tokens)
    answer = await interrupted(events, part, is_running)
    assert list(answer.tokens) == expected
    await check_kept(kindred_stack, client, answer, prompt)
    if killed == "workers":
        check_usage(answer)
