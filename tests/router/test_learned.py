"""R-Stitch+ over toy models, wherever its head is asked: with all that goes with a policy, and through what fails."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import grpc
import pytest

from rstitch.errors import RstitchError
from rstitch.service.head import Head
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, check_kept, refused, take, until
from tests.support.heads import put, random_head
from tests.support.naive import EXITS, NUM_TOKENS, check, check_exit, naive, told
from tests.support.toy import ToyModel
from tests.support.toy_stack import Stack

PROMPT = [7, 8, 9]
TAUS = [-1, 0.2, 0.5, 1]
BUDGETS: list[dict[str, Any]] = [{}, *({"llm_tokens": 7, "then": n} for n in (1, 2)), {"max_switches": 4, "then": 2}]
PLACES = pytest.mark.parametrize("place", ["on", "off"], ids=["in worker", "in router"])


@pytest.fixture
def head() -> Head:
    """Of two minds about what a toy shows: its doubt."""
    made = random_head(1, seed=4, tau=0.2)
    assert {made.wants_llm(ToyModel(1).hidden_state([n]), 9) for n in range(40)} == {True, False}
    return made


@pytest.fixture
def settings(head: Head, tmp_path: Path) -> dict[str, Any]:
    put(tmp_path, "toy", head)
    return {"heads": str(tmp_path)}


@pytest.fixture
def models(stack: Stack) -> dict[str, ToyModel]:
    stack.slm.model, stack.llm.model = ToyModel(31, stop_every=60), ToyModel(32, stop_every=60)
    return {"slm": stack.slm.model, "llm": stack.llm.model}


def asked(tau: float | None = 0.2, prompt: list[int] = PROMPT, **fields: Any) -> router_pb2.GenerateRequest:
    policy = {"learned": {"name": "toy", "tau": tau}}
    given = {name: value for name, value in fields.items() if value}
    return ask_for(prompt, policy=policy, max_new_tokens=NUM_TOKENS, **given)


@PLACES
async def test_it_is_its_naive_self_with_budgets_and_early_exit(
    stack: Stack, models: dict[str, ToyModel], settings: dict[str, Any], head: Head, place: str
) -> None:
    stub = await stack.stub(await stack.router(head_in_worker=place, **settings))
    num_asked = 0

    async def one(tau: float, budget: dict[str, Any], exit_: dict[str, Any] | None) -> None:
        nonlocal num_asked
        answer = await take(stub, asked(tau, budget=budget, early_exit=exit_))
        expected = naive(models, PROMPT, {"learned": {"tau": tau}}, budget, exit_=exit_, head=head)
        check(answer, expected)
        if exit_ is not None:
            check_exit(answer, expected, exit_)
        num_asked += answer.finished.usage.num_consultations
        await check_kept(stub, answer)

    await asyncio.gather(*(one(*case) for case in itertools.product(TAUS, BUDGETS, [None, *EXITS[:2]])))
    assert num_asked


@PLACES
async def test_another_router_goes_on_as_the_first_would(
    stack: Stack, models: dict[str, ToyModel], settings: dict[str, Any], head: Head, place: str
) -> None:
    """Also one that asks the head elsewhere."""
    stack.slm.delay_s = stack.llm.delay_s = 0.003
    cases = list(itertools.product((1, 4, 11), BUDGETS, [None, EXITS[0]]))
    async with stack.routing(head_in_worker=place, **settings) as first:
        await first.ready.wait()
        stub = await stack.stub(first)
        begun = await asyncio.gather(
            *(take(stub, asked(budget=b, early_exit=e), num_tokens=num) for num, b, e in cases)
        )
    other = {"on": "off", "off": "on"}[place]
    stub = await stack.stub(await stack.router(head_in_worker=other, **settings))
    for before, (_, budget, exit_) in zip(begun, cases, strict=True):
        answer = await take(stub, router_pb2.GenerateRequest(session_id=before.session_id, resume_from=before.next))
        answer.tokens, answer.authors = before.tokens + answer.tokens, before.authors + answer.authors
        answer.position = before.position
        expected = naive(models, PROMPT, {"learned": {"tau": 0.2}}, budget, exit_=exit_, head=head)
        assert (answer.tokens, answer.authors) == told(expected), (budget, exit_)
        await check_kept(stub, answer)


@PLACES
async def test_a_worker_that_fails_or_comes_back_without_heads_changes_nothing(
    stack: Stack, models: dict[str, ToyModel], settings: dict[str, Any], head: Head, place: str
) -> None:
    stub = await stack.stub(await stack.router(head_in_worker=place, run_ahead="on", **settings))
    for number in range(8):
        stack.slm.break_after, stack.llm.break_after = [number % 4 + 1, 2], [1 + number % 3]
        if number % 2:
            stack.slm.heads.clear()  # as many others' would have pushed it out
        prompt = [7, 8, 10 + number]
        answer = await take(stub, asked(prompt=prompt))
        check(answer, naive(models, prompt, {"learned": {"tau": 0.2}}, {}, head=head))
    stack.slm.delay_s = stack.llm.delay_s = 0.005
    reading = asyncio.create_task(take(stub, asked()))
    await until(lambda: stack.slm.num_streams)
    await stack.slm.stop()
    await stack.slm.start()
    check(await reading, naive(models, PROMPT, {"learned": {"tau": 0.2}}, {}, head=head))


async def test_a_worker_too_busy_to_take_a_head_is_given_it_again(
    stack: Stack, models: dict[str, ToyModel], settings: dict[str, Any], head: Head
) -> None:
    """The answer waits for a worker that does not answer a run; it waits for one that does not take a head, too."""
    busy = RstitchError(grpc.StatusCode.DEADLINE_EXCEEDED, "TRANSPORT", "too slow")
    stub = await stack.stub(await stack.router(head_in_worker="on", **settings))
    stack.slm.head_errors = [busy] * 9
    answer = await take(stub, asked())
    check(answer, naive(models, PROMPT, {"learned": {"tau": 0.2}}, {}, head=head))
    assert not stack.slm.head_errors
    stack.slm.heads.clear()
    stack.slm.head_errors = [busy] * 99
    answer = await take(stub, asked())
    assert answer.error is not None
    assert answer.error.reason == "HEAD_UNKNOWN"
    assert stack.slm.head_errors, "it was asked for ever"


async def test_the_guard_lets_it_begin_with_the_heads_own_tau(
    stack: Stack, models: dict[str, ToyModel], settings: dict[str, Any], head: Head
) -> None:
    stub = await stack.stub(await stack.router(guard="on", **settings))
    answer = await take(stub, asked(None))
    check(answer, naive(models, PROMPT, {"learned": {"tau": 0.2}}, {}, head=head))
    assert answer.finished.policy.learned.tau == 0.2
    for policy in ({"learned": {"name": "nobody"}}, {"learned": {"name": "nobody", "tau": 0.5}}):
        error = await refused(stub.Generate(ask_for(policy=policy)))
        assert (error.reason, error.field) == ("HEAD_UNKNOWN", "policy.learned.name")
