"""However often the stream is lost, each token and each switch comes once and in order."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable

import grpc
import pytest

from rstitch import Chunk, Event, Finished, RstitchError, Started, Switch
from rstitch.client import messages, requests
from rstitch.client.common import UNREACHABLE
from rstitch.client.reconnect import Resumable
from tests.client.conftest import Ask
from tests.support.fake_router import FakeRouter
from tests.support.flaky_proxy import FlakyProxy
from tests.support.scripted_answer import NUM_PROMPT_TOKENS, script

LOST = RstitchError(grpc.StatusCode.UNAVAILABLE, "ROUTER_DRAINING", "the router goes away", retry_after_s=0.01)
CANCELLED = RstitchError(grpc.StatusCode.CANCELLED, "", "")
BUSY = RstitchError(
    grpc.StatusCode.ABORTED, "TAKEN_OVER", "another router", retry_after_s=0.01, metadata={"resume_from": "1"}
)


def told(events: list[Event]) -> tuple[list[int], str, list[Switch]]:
    """Tokens, text and switches of an answer that must begin and end well."""
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Started | Finished) for event in events[1:-1])
    chunks = [event for event in events if isinstance(event, Chunk)]
    position = chunks[0].position
    for chunk in chunks:
        assert chunk.position == position
        position += len(chunk.tokens)
    tokens = [token for chunk in chunks for token in chunk.tokens]
    return tokens, "".join(c.text for c in chunks), [e for e in events if isinstance(e, Switch)]


def expected(router: FakeRouter) -> tuple[list[int], str, list[Switch]]:
    events = [messages.event(message) for message in router.answer]
    return told([Started("", NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS, ""), *events])


def lose_sometimes(seed: int, error: RstitchError, probability: float = 0.15) -> Callable[[int], None]:
    dice = random.Random(seed)

    def before_event(n: int) -> None:
        if dice.random() < probability:
            raise error

    return before_event


@pytest.mark.parametrize("error", [LOST, CANCELLED, BUSY], ids=lambda error: error.code.name)
@pytest.mark.parametrize("seed", range(2))
def test_streams_ended_by_the_router(router: FakeRouter, ask: Ask, seed: int, error: RstitchError) -> None:
    lose = lose_sometimes(seed, error)
    router.before_event = lambda n: lose(n) if error is not BUSY or n > 2 else None
    events = ask(router.address, "generate", "What?")
    assert told(events) == expected(router)
    assert len(router.questions) == 1


@pytest.mark.parametrize("at_once", [2, 5, 1000])
def test_events_that_come_in_one_message(router: FakeRouter, ask: Ask, at_once: int) -> None:
    lose = lose_sometimes(at_once, LOST)
    router.at_once = at_once
    router.before_event = lambda n: lose(n) if at_once < 1000 else None
    events = ask(router.address, "generate", "What?")
    assert told(events) == expected(router)
    assert len(router.questions) == 1


@pytest.mark.parametrize("seed", range(3))
def test_connections_that_are_cut(router: FakeRouter, ask: Ask, seed: int) -> None:
    dice = random.Random(seed)
    router.answer = script(num_tokens=400)
    router.before_event = lambda n: time.sleep(0.001)  # else one packet holds the whole answer
    with FlakyProxy(router.address, lambda: dice.randint(1500, 5000)) as proxy:
        events = ask(proxy.address, "generate", "What?")
    assert proxy.num_connections > 2
    assert told(events) == expected(router)
    assert len(router.questions) == 1


def test_a_stream_that_ends_without_its_end(router: FakeRouter, ask: Ask) -> None:
    whole = router.answer
    router.answer = whole[:7]

    def heal(n: int) -> None:
        if n == 10:
            router._sessions[router.questions[0].session_id] = whole

    router.before_event = heal
    events = ask(router.address, "generate", "What?")
    router.answer = whole
    assert told(events) == expected(router)


def test_a_question_lost_before_it_was_taken_is_asked_again(router: FakeRouter, ask: Ask) -> None:
    def lose_the_first(n: int) -> None:
        if n == 0:
            raise LOST

    router.before_event = lose_the_first
    assert told(ask(router.address, "generate", "What?")) == expected(router)
    assert len(router.questions) == 1


def test_a_question_refused_for_good_is_not_asked_again(router: FakeRouter, ask: Ask) -> None:
    times = []

    def refuse(n: int) -> None:
        times.append(n)
        raise RstitchError(grpc.StatusCode.UNAVAILABLE, "TOKENIZER_MISMATCH", "the models do not match")

    router.before_event = refuse
    with pytest.raises(RstitchError, match="do not match"):
        ask(router.address, "generate", "What?")
    assert times == [0]


def test_a_question_lost_after_it_was_taken_is_not_asked_again(router: FakeRouter, ask: Ask) -> None:
    def lose_the_start(n: int) -> None:
        if n == 1:
            raise LOST

    router.before_event = lose_the_start
    assert told(ask(router.address, "generate", "What?")) == expected(router)
    assert len(router.questions) == 1


@pytest.mark.parametrize("error", [LOST, CANCELLED], ids=lambda error: error.code.name)
@pytest.mark.parametrize("when", [0, 1], ids=["before it was taken", "after it was taken"])
def test_a_follow_up_question_that_was_lost_is_asked_once(
    router: FakeRouter, ask: Ask, when: int, error: RstitchError
) -> None:
    ask(router.address, "generate", "What?", session_id="talk")
    seen = len(router.calls)

    def lose(n: int, began: list[int]) -> None:
        began.append(n)
        if len(began) == when + 1:
            raise error

    router.before_event = functools.partial(lose, began=[])
    assert told(ask(router.address, "generate", "And then?", session_id="talk")) == expected(router)
    assert [question.text for question in router.questions] == ["What?", "And then?"]
    assert [name for name, _ in router.calls[seen:]] == ["Generate"] * 2


def test_each_question_has_an_id_of_its_own_unless_it_is_given(router: FakeRouter, ask: Ask) -> None:
    for given in ({}, {}, {"request_id": "mine"}):
        ask(router.address, "generate", "What?", session_id="talk", **given)
    first, second, third = (question.request_id for question in router.questions)
    assert first != second
    assert len(first) == len(second) == 32
    assert third == "mine"
    ask(router.address, "generate", "What?", session_id="talk", request_id="mine")
    assert len(router.questions) == 3


def test_a_lost_question_waits_for_what_the_router_before_it_still_holds() -> None:
    """Its slot of a quota, until the lease is over; one that was not lost is told at once that there is none."""
    quota = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", "too many", retry_after_s=0.01)
    cut = RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "Socket closed")
    question = requests.generate_request("And then?", session_id="talk")
    asked = Resumable(question, reconnect_s=30, timeout_s=None)
    first = asked.request().request_id
    for error in (cut, quota, cut):
        assert asked.wait_after(error) > 0
        assert (asked.request().text, asked.request().request_id) == ("And then?", first)
    for before in ([], [LOST]):
        fresh = Resumable(question, reconnect_s=30, timeout_s=None)
        for error in before:
            fresh.wait_after(error)
        with pytest.raises(RstitchError, match="too many"):
            fresh.wait_after(quota)


def test_a_question_for_a_new_session_waits_for_a_router_that_is_being_restarted(router: FakeRouter, ask: Ask) -> None:
    def refuse(n: int) -> None:
        if n < 3:
            raise LOST

    router.before_event = refuse
    assert told(ask(router.address, "generate", "What?", session_id="talk", only_if_new=True)) == expected(router)
    assert len(router.questions) == 1
    assert [name for name, _ in router.calls] == ["Generate"] * 4


def test_a_question_that_waited_in_vain_is_told_that_its_session_is_not_new(router: FakeRouter, ask: Ask) -> None:
    """It never reads the answer of another as its own."""

    def refuse(n: int) -> None:
        if n == 0:
            router.before_event = lambda n: None
            ask(router.address, "generate", "What else?", session_id="talk", only_if_new=True)
            raise LOST

    router.before_event = refuse
    with pytest.raises(RstitchError) as caught:
        ask(router.address, "generate", "What?", session_id="talk", only_if_new=True)
    assert caught.value.reason == "SESSION_EXISTS"
    assert [question.text for question in router.questions] == ["What else?"]


def test_a_question_for_a_new_session_that_may_have_been_taken_is_asked_once(router: FakeRouter, ask: Ask) -> None:
    def lose_the_start(n: int) -> None:
        if n == 1:
            raise CANCELLED

    router.before_event = lose_the_start
    assert told(ask(router.address, "generate", "What?", session_id="talk", only_if_new=True)) == expected(router)
    assert len(router.questions) == 1
    assert len(router.calls) == 2


def test_nobody_there_is_waited_for_only_after_a_router_said_that_it_stops() -> None:
    nobody = RstitchError(grpc.StatusCode.UNAVAILABLE, UNREACHABLE, "no router answers")

    def follower() -> Resumable:
        request = requests.generate_request("What?", session_id="talk", only_if_new=True)
        return Resumable(request, reconnect_s=30, timeout_s=None)

    with pytest.raises(RstitchError, match="no router answers"):
        follower().wait_after(nobody)
    told_to_wait = follower()
    for error in (LOST, nobody, nobody, LOST):
        assert told_to_wait.wait_after(error) > 0
        assert told_to_wait.request().text == "What?"


@pytest.mark.parametrize("position", [0, NUM_PROMPT_TOKENS + 7, NUM_PROMPT_TOKENS + 60])
def test_attach_goes_on_where_it_is_told(router: FakeRouter, ask: Ask, position: int) -> None:
    tokens, _, _ = expected(router)
    ask(router.address, "generate", "What?", session_id="talk")
    events = ask(router.address, "attach", "talk", position)
    got = [token for event in events if isinstance(event, Chunk) for token in event.tokens]
    assert got == tokens[max(0, position - NUM_PROMPT_TOKENS) :]


def test_a_gap_is_an_error_not_a_shorter_answer(router: FakeRouter, ask: Ask) -> None:
    chunks = [i for i, event in enumerate(router.answer) if event.HasField("chunk")]
    del router.answer[chunks[3]]
    with pytest.raises(RstitchError) as caught:
        ask(router.address, "generate", "What?")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DATA_LOSS, "OUT_OF_ORDER")
    assert caught.value.metadata["session_id"]


def test_it_gives_up_in_time_and_says_how_to_go_on(router: FakeRouter, ask: Ask) -> None:
    def lose_all_later(n: int) -> None:
        if n > 6:
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "WORKER_LOST", "the LLM worker is gone")

    router.before_event = lose_all_later
    with pytest.raises(RstitchError, match="attach") as caught:
        ask(router.address, "generate", "What?", session_id="talk", client={"reconnect_s": 0.4})
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
    router.before_event = lambda n: None
    rest = ask(router.address, "attach", error.metadata["session_id"], int(error.metadata["resume_from"]))
    assert isinstance(rest[-1], Finished)


def test_the_deadline_is_for_the_answer_not_for_a_stream(router: FakeRouter, ask: Ask) -> None:
    router.before_event = lose_sometimes(1, LOST, 0.9)
    with pytest.raises(RstitchError):
        ask(router.address, "generate", "What?", timeout_s=0.5, client={"reconnect_s": 60.0})
    assert all(left is not None and left <= 0.6 for left in router.deadlines)
    assert router.deadlines[-1] < router.deadlines[0]


def test_whose_answer_is_meant_is_said_again_as_often_as_it_is_gone_on_with() -> None:
    cut = RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "Socket closed")
    asked = Resumable(requests.attach_request("talk", 3, "mine"), reconnect_s=30, timeout_s=None)
    for _ in range(3):
        request = asked.request()
        assert (request.session_id, request.resume_from, request.request_id) == ("talk", 3, "mine")
        asked.wait_after(cut)
