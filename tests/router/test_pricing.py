"""The price of the LLM's tokens under load: from the figures of routed answers, frozen when an answer begins."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from evals.algorithm.reference import Threshold, stitch
from router_svc.observers.pricing import MAX_PRICE, MIN_ANSWERS, LoadPrices
from router_svc.trajectory.usage import Usage
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, ask_for, check_kept, take
from tests.support.heads import random_head
from tests.support.toy import STOP, ToyModel
from tests.support.toy_stack import Stack


def took(slm_us: float, llm_us: float, num_slm: int = 30, num_llm: int = 10) -> Usage:
    """An answer's usage, by what a token of each model took it."""
    slm_time_us, llm_time_us = int(slm_us * num_slm), int(llm_us * num_llm)
    return Usage(num_slm_tokens=num_slm, num_llm_tokens=num_llm, slm_time_us=slm_time_us, llm_time_us=llm_time_us)


def fed(*seen: tuple[float, Usage], num: int = MIN_ANSWERS) -> LoadPrices:
    prices = LoadPrices()
    for load, usage in seen:
        for _ in range(num):
            prices.observe(load, usage)
    return prices


def test_it_is_one_until_both_loads_were_seen() -> None:
    alone, among = (1, took(1000, 3000)), (8, took(1000, 12_000))
    assert fed().price(8) == 1
    assert fed(alone).price(8) == 1
    assert fed(among).price(8) == 1
    assert fed(alone, among, num=MIN_ANSWERS - 1).price(8) == 1
    assert fed(alone, among).price(8) == pytest.approx(4)
    assert fed(alone, among).price(1) == 1


def test_what_slows_both_alike_is_no_reason() -> None:
    assert fed((1, took(1000, 3000)), (8, took(7000, 21_000))).price(8) == pytest.approx(1)


def test_whose_the_tokens_were_does_not_count() -> None:
    """Or a price, which lowers the LLM's share, would be a reason for the next one."""
    before, after = took(1000, 6000, 20, 20), took(1000, 6000, 39, 1)
    assert fed((1, took(1000, 3000)), (8, before)).price(8) == fed((1, took(1000, 3000)), (8, after)).price(8)


def test_between_loads_it_rises_from_one_to_the_other_and_beyond_them_it_stays() -> None:
    prices = fed((1, took(1000, 1000)), (4, took(1000, 2000)), (16, took(1000, 4000)))
    for load, price in ((1, 1), (2, 2**0.5), (4, 2), (8, 8**0.5), (16, 4), (64, 4)):
        assert prices.price(load) == pytest.approx(price, rel=1e-3), load


def test_it_is_bounded() -> None:
    assert fed((1, took(1000, 1000)), (8, took(1000, 1e6))).price(8) == MAX_PRICE
    assert fed((1, took(1000, 9000)), (8, took(1000, 1000))).price(8) == 1


def test_a_few_answers_that_waited_do_not_move_it() -> None:
    dice, prices = random.Random(0), LoadPrices()
    for _ in range(30):
        for load, llm_us in ((1, 2000), (8, 6000)):
            waited = 50 if dice.random() < 0.1 else 1
            prices.observe(load, took(1000, llm_us * dice.lognormvariate(0, 0.1) * waited))
    assert prices.price(8) == pytest.approx(3, rel=0.1)


def test_the_latest_answers_count() -> None:
    prices = fed((1, took(1000, 1000)), (8, took(1000, 5000)))
    for _ in range(40):
        prices.observe(8, took(1000, 2000))
    assert prices.price(8) == pytest.approx(2)


def test_an_answer_by_one_model_says_nothing() -> None:
    assert fed((1, took(1000, 1000)), (8, took(1000, 0, num_llm=0)), (8, took(0, 9000, num_slm=0))).price(8) == 1


def test_what_other_workers_cost_is_forgotten() -> None:
    prices = LoadPrices()
    prices.set_pair("old")
    for load, llm_us in ((1, 1000), (8, 4000)):
        for _ in range(MIN_ANSWERS):
            prices.observe(load, took(1000, llm_us))
    prices.set_pair("old")
    assert prices.price(8) == pytest.approx(4)
    prices.set_pair("new")
    assert prices.price(8) == 1


SLM, LLM = ToyModel(31, stop_every=0), ToyModel(32, stop_every=0)
NUM_TOKENS = 16
# Asks the LLM at a price of 1, and the less sure the SLM is the more it would pay.
HEAD = random_head(1, seed=5, tau=0.5)


def priced(prompt: list[int], price: float) -> list[int]:
    """The reference's tokens at a price."""

    def wants_llm(tokens: Any) -> bool:
        return HEAD.probability(SLM.hidden_state(tokens), len(tokens), (), price) > 0.5

    rule = Threshold(HEAD.facts.tau, wants_llm=wants_llm)
    written = stitch(SLM, LLM, prompt, rule, max_new_tokens=NUM_TOKENS, stop_tokens={STOP})
    return [token.id for token in written.written]


async def test_under_load_the_price_rises_and_the_llm_writes_less(stack: Stack) -> None:
    """The LLM's tokens take the longer the more answers it writes, the SLM's do not."""
    stack.slm.model, stack.llm.model = SLM, LLM
    stack.slm.evict_share = stack.llm.evict_share = 0
    stack.slm.delay_s = 0.001

    async def crowded() -> None:
        await asyncio.sleep(0.002 * stack.llm.num_streams**2)

    stack.llm.pace = crowded
    router = await stack.router(run_ahead="off")
    stub = await stack.stub(router)
    await stub.StoreHead(router_pb2.StoreHeadRequest(name="mine", data=HEAD.data))
    policy = {"learned": {"name": "mine", "price_by_load": True}}
    prompts = [[7, 8, 9 + number] for number in range(8)]

    async def ask(prompt: list[int]) -> Answer:
        return await take(stub, ask_for(prompt, policy=policy, max_new_tokens=NUM_TOKENS))

    async def four_at_a_time() -> list[Answer]:
        left, answers = list(prompts), list[Answer]()

        async def client() -> None:
            while left:
                answers.append(await ask(left.pop()))

        await asyncio.gather(*(client() for _ in range(4)))
        return answers

    def share(answers: list[Answer]) -> float:
        return sum(answer.finished.usage.num_llm_tokens for answer in answers) / (NUM_TOKENS * len(answers))

    alone = [await ask(prompt) for prompt in prompts]
    # At which loads they are depends on the machine, and of one load it takes several.
    async with asyncio.timeout(90):
        while router.sessions.observer.price(4) < 2:
            await four_at_a_time()
    under_load = await four_at_a_time()
    for answer in (*alone, *under_load):
        learned = answer.finished.policy.learned
        assert not learned.price_by_load, "the policy that an answer had gives the same answer again"
        prompt = list((await check_kept(stub, answer)).segments[0].tokens)
        assert answer.tokens == priced(prompt, learned.price or 1.0)
    assert all(not answer.finished.policy.learned.HasField("price") for answer in alone)
    prices = [answer.finished.policy.learned.price for answer in under_load]
    assert max(prices) > 1.2
    assert share(under_load) < share(alone)


async def test_an_answer_that_another_router_goes_on_with_keeps_its_price(stack: Stack) -> None:
    stack.slm.model, stack.llm.model = SLM, LLM
    stack.slm.delay_s = stack.llm.delay_s = 0.003
    policy = {"learned": {"name": "mine", "price_by_load": True}}
    async with stack.routing() as first:
        await first.ready.wait()
        stub = await stack.stub(first)
        await stub.StoreHead(router_pb2.StoreHeadRequest(name="mine", data=HEAD.data))
        first.sessions.observer.price = lambda load: 2.5  # type: ignore[method-assign]
        begun = await take(stub, ask_for([7, 8, 9], policy=policy, max_new_tokens=NUM_TOKENS), num_tokens=3)
    stub = await stack.stub(await stack.router())
    rest = await take(stub, router_pb2.GenerateRequest(session_id=begun.session_id, resume_from=begun.next))
    assert rest.finished.policy.learned.price == 2.5
    assert begun.tokens + rest.tokens == priced([7, 8, 9], 2.5)
