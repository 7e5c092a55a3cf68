"""Several workers of a role: where sessions go, that they stay, and that they leave without a token being another."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from router_svc.workers import roster
from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, chat, check_kept, take, threshold, until
from tests.support.endless import at_once, expected, glued, resume
from tests.support.fleets import all_ready, ask_turns, begins, binding, fleet, homes, workers
from tests.support.toy import Scripted, at
from tests.support.toy_stack import Stack, script

ROLES = pytest.mark.parametrize("role", ["slm", "llm"])


async def test_sessions_are_spread_evenly_and_stay_over_turns_and_routers(stack: Stack) -> None:
    await fleet(stack, 2, 3, delay_s=0)
    routers = [await stack.router(), await stack.router()]
    stubs = [await stack.stub(router) for router in routers]
    for stub in stubs:
        await all_ready(stub, 5)
    names = [f"s{number}" for number in range(12)]
    await asyncio.gather(
        *(ask_turns(stubs[index % 2 :] + stubs[: index % 2], name) for index, name in enumerate(names))
    )
    for role in ("slm", "llm"):
        members = workers(stack, role)
        at_home = {name: homes(members, name) for name in names}
        assert all(len(found) == 1 for found in at_home.values()), "a session was at several workers"
        assert all(begins(found[0], name) == 1 for name, found in at_home.items()), "a prompt was computed again"
        counts = Counter(found[0].worker_id for found in at_home.values())
        assert max(counts.values()) <= 2 * min(counts.values()), counts
        for name in names:
            kept = await binding(routers[0], name)
            assert getattr(kept, role) == at_home[name][0].worker_id
            assert kept.epoch == 2  # one for each role, and none since


async def test_a_chat_that_sends_all_of_its_conversation_goes_where_it_was(stack: Stack) -> None:
    """Whichever router it comes to, and whichever has most sessions by then."""
    await fleet(stack, 2, 3, delay_s=0)
    stubs = [await stack.stub(await stack.router()) for _ in range(2)]
    for stub in stubs:
        await all_ready(stub, 5)

    async def ask(question: str, num_turns: int) -> set[tuple[str, ...]]:
        """The workers of its turns, each a session of its own."""
        said, where = [("system", "s"), ("user", question)], set()
        for turn in range(num_turns):
            asked = ask_for(chat=chat(*said), policy=threshold(0.5), max_new_tokens=8)
            answer = await take(stubs[turn % 2], asked)
            assert answer.error is None, answer.error
            found = [homes(workers(stack, role), answer.session_id) for role in ("slm", "llm")]
            assert [len(each) for each in found] == [1, 1]
            where.add(tuple(each[0].worker_id for each in found))
            said += [("assistant", answer.text), ("user", "and?")]
        return where

    assert len(await ask("one", 4)) == 1
    assert len({place for number in range(6) for place in await ask(f"another {number}", 1)}) > 1


@ROLES
async def test_a_worker_that_is_lost_midway_is_left_at_once(stack: Stack, role: str) -> None:
    await fleet(stack)
    # Nobody waits for it: it does not come back, so that an answer that did would end.
    router = await stack.router(worker_patience_s=10)
    stub = await stack.stub(router)
    await all_ready(stub, 4)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=150)).has(20)
    members = workers(stack, role)
    lost = next(each for each in members if each.num_streams)
    await lost.stop()
    answer = await reading
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(stack, 150)
    await check_kept(stub, answer)
    other = next(each for each in members if each is not lost)
    assert begins(other, answer.session_id) == 1
    kept = await binding(router, answer.session_id)
    assert (getattr(kept, role), kept.epoch) == (other.worker_id, 3)


@ROLES
async def test_the_next_turn_of_a_session_whose_worker_is_gone_is_elsewhere(stack: Stack, role: str) -> None:
    await fleet(stack, delay_s=0)
    routers = [await stack.router(), await stack.router()]
    stubs = [await stack.stub(router) for router in routers]
    for stub in stubs:
        await all_ready(stub, 4)
    first = await take(stubs[0], ask_for(session_id="s", policy=threshold(0.5), max_new_tokens=20))
    members = workers(stack, role)
    lost = homes(members, "s")[0]
    await lost.stop()
    await all_ready(stubs[1], 3)
    second = await take(stubs[1], ask_for((5, 6), session_id="s", policy=threshold(0.5), max_new_tokens=20))
    prompt = (7, 8, 9, *first.tokens, 5, 6)
    assert (second.tokens, second.authors) == expected(stack, 20, prompt=prompt)
    assert len(homes(members, "s")) == 2
    assert (await binding(routers[0], "s")).epoch == 3


async def test_the_model_that_waits_is_fed_elsewhere_when_its_worker_is_lost(stack: Stack) -> None:
    """Before it is its turn: the SLM's text is long, and the LLM's new worker has all of it when the LLM is asked."""
    script(stack, Scripted(1, unsure=at(120)), Scripted(2))
    stack.slm.delay_s = 0.004
    await stack.grow(1, 2)
    stub = await stack.stub(await stack.router(worker_patience_s=10))
    await all_ready(stub, 3)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=140)).has(12)
    lost = next(each for each in stack.llms if each.requests)
    other = next(each for each in stack.llms if each is not lost)
    await lost.stop()
    await until(lambda: other.requests)
    assert len(reading.answer.tokens) < 117, "the LLM was asked before it was fed"
    answer = await reading
    assert answer.error is None
    assert "llm" in answer.authors
    assert begins(other, answer.session_id) == 1


@ROLES
async def test_a_worker_that_fails_each_run_but_answers_is_left(stack: Stack, role: str) -> None:
    await fleet(stack, delay_s=0)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 4)
    for member in workers(stack, role):
        if member.worker_id.endswith("0"):
            member.errors = [RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "broken by the test")] * 1000
    for number in range(4):  # some of them begin there
        answer = await take(stub, ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=30))
        assert answer.error is None
        assert (answer.tokens, answer.authors) == expected(stack, 30)


@ROLES
async def test_one_without_room_is_left_for_one_that_has_some(stack: Stack, role: str) -> None:
    await fleet(stack, delay_s=0)
    stub = await stack.stub(await stack.router(capacity_patience_s=0.2))
    await all_ready(stub, 4)
    full = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "full", retry_after_s=0.1)
    crowded = workers(stack, role)[0]
    crowded.errors = [full] * 1000
    for number in range(4):
        answer = await take(stub, ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=30))
        assert answer.error is None
        assert (answer.tokens, answer.authors) == expected(stack, 30)
    assert crowded.closed, "what it holds of a session that has left was not given back"


async def test_where_no_worker_has_room_it_is_waited_for_as_with_one(stack: Stack) -> None:
    await fleet(stack, delay_s=0)
    stub = await stack.stub(await stack.router(capacity_patience_s=0.2))
    await all_ready(stub, 4)
    full = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "full", retry_after_s=0.01)
    for worker in stack.slms:
        worker.errors = [full] * 1000
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=30))
    assert answer.error is not None
    assert answer.error.reason == "NO_CAPACITY"


@ROLES
async def test_a_session_leaves_a_worker_that_drains_at_its_next_run(stack: Stack, role: str) -> None:
    await fleet(stack)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 4)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=1500)).has(20)
    leaving = next(each for each in workers(stack, role) if each.num_streams)
    leaving.draining = True
    await until(lambda: leaving.num_streams == 0)
    assert not reading.is_over
    await until(lambda: reading.answer.session_id in leaving.closed)
    reading.leave()
    for number in range(3):
        answer = await take(stub, ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=20))
        assert (answer.tokens, answer.authors) == expected(stack, 20)
        assert leaving not in homes(workers(stack, role), f"s{number}")


@ROLES
async def test_the_last_worker_of_a_role_goes_on_while_it_drains(stack: Stack, role: str) -> None:
    await fleet(stack, 1, 1, delay_s=0)
    for worker in (stack.slm, stack.llm):
        worker.draining = True
    stub = await stack.stub(await stack.router())
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=30))
    assert (answer.tokens, answer.authors) == expected(stack, 30)


async def test_a_resumed_answer_goes_on_at_the_workers_that_have_it(stack: Stack) -> None:
    await fleet(stack, delay_s=0)
    go_on = at_once(stack, 30)
    for worker in stack.slms[1:]:
        worker.max_message_tokens, worker.pace = 1, stack.slm.pace
    first = await stack.router()
    await all_ready(await stack.stub(first), 4)
    policy = threshold(1.0)  # the SLM's alone, fed to the LLM all the same
    reading = await Reading(await stack.stub(first), ask_for(session_id="s", policy=policy, max_new_tokens=60)).has(20)
    await first.sessions.drain()
    before = await reading
    assert before.error is not None
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 4)
    go_on.set()
    whole = glued(before, await take(stub, resume(before)))
    assert (whole.tokens, whole.authors) == expected(stack, 60, tau=1.0)
    homes_of_slm = homes(stack.slms, "s")
    assert len(homes_of_slm) == 1
    assert begins(homes_of_slm[0], "s") == 1


async def test_a_deleted_session_is_closed_where_it_is(stack: Stack) -> None:
    await fleet(stack, delay_s=0)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 4)
    await take(stub, ask_for(session_id="s", policy=threshold(0.5), max_new_tokens=30))
    await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="s"))
    for members in (stack.slms, stack.llms):
        assert [each.closed for each in members if each.closed] == [["s"]]
        assert all("s" not in each.sessions for each in members)


async def test_a_conversation_leaves_a_crowd_at_its_next_turn(stack: Stack) -> None:
    await fleet(stack, 1, 1, delay_s=0)
    router = await stack.router()
    stub = await stack.stub(router)
    for number in range(8):
        await take(stub, ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=10))
    await stack.grow(2, 1)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 3)
    second = await take(stub, ask_for((5, 6), session_id="s0", policy=threshold(0.5), max_new_tokens=10))
    assert second.error is None
    assert homes(stack.slms, "s0") == stack.slms
    await until(lambda: stack.slm.closed == ["s0"])


@pytest.mark.parametrize("what", ["weights", "tokenizer", "weights, and the others' host is gone"])
async def test_a_worker_that_writes_other_tokens_is_refused_by_both_fingerprints(
    stack: Stack, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet(stack, 1, 1, delay_s=0)
    stack.slm.weights_fingerprint = "w1"
    await stack.grow(2, 1)
    odd = stack.slms[1]
    await odd.stop()
    stub = await stack.stub(await stack.router())
    if what != "tokenizer":
        odd.weights_fingerprint = "w2"
    else:
        odd.files = type(odd.files)(odd.files.data + b" ", odd.files.chat_template, odd.files.special_tokens)
    await odd.start()

    async def refused() -> Any:
        status = await stub.GetStatus(router_pb2.GetStatusRequest())
        return status if "fingerprint" in status.detail else None

    async def taken_over(stub: Any) -> bool:
        status = await stub.GetStatus(router_pb2.GetStatusRequest())
        return status.ready and [each.ready for each in status.members if each.role == 1] == [False, True]

    status = await until(refused)
    assert status.ready
    assert "slm-1" in status.detail
    member = next(each for each in status.members if each.id == "slm-1")
    assert not member.ready
    assert ("w2" in member.detail and "w1" in member.detail) or what == "tokenizer"
    for number in range(3):
        await take(stub, ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=10))
        assert homes(stack.slms, f"s{number}") == [stack.slm]

    # Once nobody is there as the others were, it takes their place, as one that was restarted with another model.
    if "host" in what:  # what it was sent is answered by nobody
        monkeypatch.setattr(roster, "_PATIENCE_S", 0.2)
        monkeypatch.setattr(roster, "_LOST_AFTER_S", 0.5)
        stack.slm.answering.clear()
    else:
        await stack.slm.stop()
    await until(lambda: taken_over(stub))
    answer = await take(stub, ask_for(session_id="last", policy=threshold(0.5), max_new_tokens=10))
    assert answer.error is None
    assert homes(stack.slms, "last") == [odd]


async def test_an_older_worker_that_tells_no_weights_is_taken(stack: Stack) -> None:
    await fleet(stack, 1, 1, delay_s=0)
    stack.slm.weights_fingerprint = "w1"
    await stack.grow(2, 1)
    stack.slms[1].weights_fingerprint = ""
    await all_ready(await stack.stub(await stack.router()), 3)


async def test_two_workers_of_a_role_cost_one_tokenizer(stack: Stack) -> None:
    await fleet(stack, 3, 1, delay_s=0)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 4)
    assert sum(each.num_tokenizers for each in stack.slms) == 1
