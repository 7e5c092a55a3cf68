"""The salt of a question goes with every run of both workers, also when another router goes on with the answer."""

from __future__ import annotations

from tests.support.asking import Reading, ask_for, take, threshold
from tests.support.endless import endless, expected, glued, resume
from tests.support.toy_stack import Stack


async def test_every_run_of_an_answer_has_its_salt_whoever_goes_on_with_it(stack: Stack) -> None:
    endless(stack)
    first = await stack.router(lease_s=30)
    question = ask_for(policy=threshold(0.5), max_new_tokens=150, cache_salt="tenant")
    reading = await Reading(await stack.stub(first), question).has(20)
    await first.sessions.drain()
    answer = await reading
    before = [run.cache_salt for worker in (stack.slm, stack.llm) for run in worker.requests]
    stub = await stack.stub(await stack.router())
    assert glued(answer, await take(stub, resume(answer))).tokens == expected(stack, 150)[0]
    after = [run.cache_salt for worker in (stack.slm, stack.llm) for run in worker.requests][len(before) :]
    assert set(before) == set(after) == {"tenant"}


async def test_without_a_salt_there_is_none(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    await take(stub, ask_for(policy=threshold(0.5)))
    assert {run.cache_salt for run in stack.slm.requests} == {""}
