"""Events that are there at the same time come in one message, to clients that say so and to no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, threshold
from tests.support.endless import at_once, endless
from tests.support.toy_stack import Stack


async def told(stub: Any, **fields: Any) -> list[router_pb2.GenerateResponse]:
    """The messages of an answer."""
    return [message async for message in stub.Generate(router_pb2.GenerateRequest(**fields))]


def events_of(messages: Sequence[router_pb2.GenerateResponse]) -> list[tuple[Any, ...]]:
    """What the messages say, but for times: each token with its writer and entropy, each switch, and the end."""
    found: list[tuple[Any, ...]] = []
    for message in messages:
        for event in (message, *message.more):
            assert event is message or not event.more
            kind = event.WhichOneof("event")
            if kind == "chunk":
                chunk = event.chunk
                found += [(chunk.model, *each) for each in zip(chunk.tokens, chunk.entropies, strict=True)]
            elif kind == "switch":
                found.append((event.switch.to, event.switch.position, event.switch.entropy))
            else:
                found.append((kind,))
    return found


async def test_an_answer_is_the_same_in_fewer_messages(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    async for _ in stub.Generate(ask_for(session_id="s", policy=threshold(0.5), max_new_tokens=24)):
        pass
    alone = await told(stub, session_id="s", resume_from=0)
    together = await told(stub, session_id="s", resume_from=0, takes_more=True)
    assert any(message.HasField("switch") for message in alone), "one model wrote it all: there is nothing to gather"
    assert not any(message.more for message in alone)
    assert any(message.more for message in together)
    assert len(together) < len(alone)
    assert events_of(together) == events_of(alone)


async def test_an_answer_that_is_being_written_is_gathered_too(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    request = ask_for(policy=threshold(0.5), max_new_tokens=24)
    alone = [message async for message in stub.Generate(request)]
    request.takes_more = True
    together = [message async for message in stub.Generate(request)]
    assert any(message.more for message in together)
    assert events_of(together) == events_of(alone)


async def test_what_is_gathered_comes_when_the_answer_ends(stack: Stack) -> None:
    """The time for which events may be held back is one that the test does not have."""
    stub = await stack.stub(await stack.router())
    request = ask_for(policy=threshold(0.5), max_new_tokens=24)
    alone = [message async for message in stub.Generate(request)]
    request.takes_more, request.gather_ms = True, 3_600_000
    whole = [message async for message in stub.Generate(request)]
    kinds = [message.WhichOneof("event") for message in whole]
    assert kinds in (["started", "chunk", "finished"], ["started", "switch", "finished"])
    assert events_of(whole) == events_of(alone)


async def test_what_is_held_back_comes_when_its_time_is_over(stack: Stack) -> None:
    go_on = at_once(stack, 8)
    endless(stack, delay_s=0)
    stub = await stack.stub(await stack.router())
    request = ask_for(policy=threshold(0.5), max_new_tokens=30, takes_more=True, gather_ms=50)
    reading = await Reading(stub, request).has(3)
    go_on.set()
    assert (await reading).error is None
