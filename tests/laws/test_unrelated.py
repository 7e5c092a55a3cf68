"""Two models whose tokenizers have nothing in common write what the reference in text writes, with emoji, CJK, marks
and bytes that make no characters: alone and among others, through failures and over two turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.algorithm.reference import Author, Authors, Rule
from evals.algorithm.reference import Budget as Bound
from evals.algorithm.reference import Threshold as Tau
from evals.algorithm.text_reference import TextAnswer, is_within_character, read_by
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Budget, Learned, LlmOnly, SlmOnly, Threshold
from rstitch.local.stack import LocalStack
from tests.support.breaking import interrupted, runs_on
from tests.support.exploring import Exploring, same, told
from tests.support.heads import put, random_head
from tests.support.served import another_router, check_kept, expected, start_stack, stored_in_redis, written
from tests.support.unrelated import (
    UnrelatedPair,
    prompts_of,
    save_byte_level_model,
    save_sentencepiece_model,
    texts,
)

TAUS = (0.3, 0.35, 0.4, 0.45, 0.5)
TOKENS = 20


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> UnrelatedPair:
    folder = tmp_path_factory.mktemp("unrelated")
    slm, llm = save_byte_level_model(folder / "slm", "llama", 1), save_sentencepiece_model(folder / "llm", "qwen2", 2)
    return UnrelatedPair(slm, llm, "float64")


@pytest.fixture(scope="module")
def stack(pair: UnrelatedPair) -> Iterator[LocalStack]:
    with start_stack(pair, router_args=["--catch-up-tokens", "4"]) as running:
        yield running


@pytest.fixture
async def client(stack: LocalStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.router_address, timeout_s=100) as connected:
        yield connected


async def check_prompts(stack: LocalStack, client: AsyncClient, pair: UnrelatedPair, num: int) -> list[TextAnswer]:
    """Asks all prompts at once, and compares each answer with the reference in text."""
    asked = [(text, TAUS[index % len(TAUS)]) for index, text in enumerate(texts(num, 3))]
    answers = await asyncio.gather(
        *(client.answer(text=text, policy=Threshold(tau), max_new_tokens=TOKENS) for text, tau in asked)
    )
    references = []
    for (text, tau), answer in zip(asked, answers, strict=True):
        references.append(pair.in_text(prompts_of(text), Tau(tau), TOKENS))
        check(answer, references[-1])
        await check_kept(stack, client, answer, prompts_of(text)["llm"])
    return references


def check(answer: Answer, reference: TextAnswer) -> None:
    assert written(answer) == expected(reference.written)
    if not reference.is_over_budget:  # else the last one was to a writer that could write nothing, and is not told
        assert answer.finished.usage.num_switches == reference.num_switches
    entropies = [entropy for chunk in answer.chunks for entropy in chunk.entropies]
    assert entropies == pytest.approx([token.entropy for token in reference.written], abs=1e-6)


async def test_they_write_what_the_reference_in_text_writes(
    stack: LocalStack, client: AsyncClient, pair: UnrelatedPair
) -> None:
    references = await check_prompts(stack, client, pair, 40)
    assert sum(reference.num_switches for reference in references) > 100


@pytest.mark.soak
async def test_so_do_two_hundred_prompts(stack: LocalStack, client: AsyncClient, pair: UnrelatedPair) -> None:
    await check_prompts(stack, client, pair, 200)


@pytest.mark.parametrize(("role", "policy", "ends"), [("llm", LlmOnly(), -0.5), ("slm", SlmOnly(), 1.0)])
async def test_one_model_alone_reads_no_text(
    client: AsyncClient, pair: UnrelatedPair, role: Author, policy: Any, ends: float
) -> None:
    for text in texts(2, 4):
        reference = pair.in_text(prompts_of(text), Authors(lambda _: role), TOKENS)
        assert written(await client.answer(text=text, policy=policy, max_new_tokens=TOKENS)) == expected(
            reference.written
        )
        at_end = await client.answer(text=text, policy=Threshold(ends), max_new_tokens=TOKENS)
        assert written(at_end) == expected(reference.written)


@pytest.mark.parametrize(
    ("options", "bound"),
    [({"llm_tokens": 3}, Bound(llm_tokens=3)), ({"max_switches": 4}, Bound(max_switches=4))],
)
@pytest.mark.parametrize("ends", [False, True])
async def test_a_budget_lets_the_character_be_ended(
    client: AsyncClient, pair: UnrelatedPair, options: Any, bound: Bound, ends: bool
) -> None:
    asked = texts(6, 5)
    budget = Budget(**options, stop=ends)
    answers = await asyncio.gather(
        *(client.answer(text=text, policy=Threshold(0.4), budget=budget, max_new_tokens=TOKENS) for text in asked)
    )
    for text, answer in zip(asked, answers, strict=True):
        rule, limit = Tau(0.4), Bound(bound.llm_tokens, bound.max_switches, ends)
        check(answer, pair.in_text(prompts_of(text), rule, TOKENS, budget=limit))


async def test_two_turns(stack: LocalStack, client: AsyncClient, pair: UnrelatedPair) -> None:
    """What an earlier answer reads like to each model is what the reference says, whoever wrote it last."""

    async def ask(text: str, tau: float) -> Author:
        first = await client.answer(text=text, policy=Threshold(tau), max_new_tokens=TOKENS)
        before = pair.in_text(prompts_of(text), Tau(tau), TOKENS)
        check(first, before)
        more = "\n你好 and 👍🏽"
        second = await client.answer(
            text=more, policy=Threshold(tau), max_new_tokens=TOKENS, session_id=first.session_id
        )
        prompts: dict[Author, list[int]] = {
            author: [*prompt, *read_by(author, before, pair.text_models), *pair.text_models[author].encode(more)]
            for author, prompt in prompts_of(text).items()
        }
        check(second, pair.in_text(prompts, Tau(tau), TOKENS))
        return before.written[-1].model

    lasts = await asyncio.gather(*(ask(text, TAUS[index % len(TAUS)]) for index, text in enumerate(texts(8, 6))))
    assert set(lasts) == {"slm", "llm"}


async def check_exploring(
    stack: LocalStack, pair: UnrelatedPair, folder: Path, where: Any, asked: list[str]
) -> tuple[set[bool], int]:
    """Compares what answers tell of an exploring head with the reference; returns the decisions, and what is left out.

    Coins are tossed by positions of the trajectory; the SLM's context length is that of the text as it reads it.
    """
    put(folder, "shown", head := random_head(32, seed=5, features=("entropy", "recent", "segment", "spent", "left")))
    slm, decisions, num_left_out = pair.oracle("slm"), set[bool](), 0
    policy = Learned("shown", 0.3, explore_seed=9)
    async with another_router(stack, heads=str(folder), head_in_worker=where) as client:
        answers = await asyncio.gather(
            *(client.answer(text=text, policy=policy, max_new_tokens=TOKENS, keep_consultations=100) for text in asked)
        )
        for text, answer in zip(asked, answers, strict=True):
            prompts = prompts_of(text)
            start = len(prompts["llm"])
            rule = Exploring(head, 0.3, lambda tokens: (slm.hidden_state(tokens), len(tokens)), start, seed=9)
            reference = pair.in_text(prompts, rule, TOKENS)
            check(answer, reference)
            # Within a character nobody hands over, whatever the head says; there a router does not even ask.
            within = within_character(pair, reference, start)
            followed = [
                each for each in rule.consultations if not (each.position in within and (where == "off" or each.to_llm))
            ]
            same(told(answer), followed)
            num_left_out += len(rule.consultations) - len(followed)
            decisions |= {each.to_llm for each in followed}
            await check_kept(stack, client, answer, prompts["llm"])
    return decisions, num_left_out


def within_character(pair: UnrelatedPair, reference: TextAnswer, start: int) -> set[int]:
    """The positions before which the answer ends within a character."""
    found, position = set(), start
    for author, tokens in reference.segments:
        for num in range(len(tokens)):
            if is_within_character(pair.text_models[author], tokens[:num]):
                found.add(position)
            position += 1
    return found


@pytest.mark.parametrize("where", ["on", "off"])
async def test_an_exploring_head_decides_between_characters(
    stack: LocalStack, pair: UnrelatedPair, tmp_path: Path, where: Any
) -> None:
    decisions, num_left_out = await check_exploring(stack, pair, tmp_path, where, texts(3, 8))
    assert decisions == {False, True}
    assert num_left_out or where == "on", "only where nobody asks are some left out of so few"


@pytest.mark.soak
@pytest.mark.parametrize("where", ["on", "off"])
async def test_so_it_does_in_twelve_answers(stack: LocalStack, pair: UnrelatedPair, tmp_path: Path, where: Any) -> None:
    decisions, num_left_out = await check_exploring(stack, pair, tmp_path, where, texts(12, 8))
    assert decisions == {False, True}
    assert num_left_out


def long_prompts(pair: UnrelatedPair, num: int, rule: Rule, num_tokens: int) -> list[tuple[str, TextAnswer]]:
    """Prompts whose answers are long and change hands often."""
    found: list[tuple[str, TextAnswer]] = []
    for text in texts(100, 7):
        reference = pair.in_text(prompts_of(text), rule, num_tokens)
        if len(reference.written) == num_tokens and reference.num_switches > 20:
            found.append((text, reference))
            if len(found) == num:
                break
    return found


@pytest.mark.slow
@pytest.mark.parametrize("role", ["slm", "llm"])
async def test_a_killed_worker_changes_nothing(stack: LocalStack, pair: UnrelatedPair, role: Any) -> None:
    ((text, reference),) = long_prompts(pair, 1, Tau(0.4), 150)
    async with AsyncClient(stack.router_address, timeout_s=100) as client:
        events = client.generate(text=text, policy=Threshold(0.4), max_new_tokens=150)
        answer = await interrupted(events, stack.worker(role), runs_on(client))
        check(answer, reference)
        await check_kept(stack, client, answer, prompts_of(text)["llm"])


@pytest.mark.slow
async def test_another_router_goes_on_as_the_first_would_have(stack: LocalStack, pair: UnrelatedPair) -> None:
    ((text, reference),) = long_prompts(pair, 1, Tau(0.4), 150)
    prompt = prompts_of(text)["llm"]

    async def is_running(session_id: str) -> bool:
        return len(stored_in_redis(stack.redis_url, session_id)) < len(prompt) + 150

    async with AsyncClient(stack.router_address, timeout_s=100, reconnect_s=60) as client:
        events = client.generate(text=text, policy=Threshold(0.4), max_new_tokens=150)
        answer = await interrupted(events, stack.router, is_running)
        assert written(answer) == expected(reference.written)
        await check_kept(stack, client, answer, prompt)
        assert (await client.trajectory(answer.session_id)).epoch == 2
