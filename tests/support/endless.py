"""Answers that are long and slow enough to break in on, and what they must be however often they are gone on with."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from rstitch.v1 import router_pb2
from tests.support.asking import Answer, stored
from tests.support.toy import ToyModel, algorithm_1
from tests.support.toy_stack import Stack

FINISHED, INTERRUPTED = 2, 3


def endless(stack: Stack, delay_s: float = 0.002) -> None:
    """Answers that end at their limit only, slowly enough to break in on."""
    stack.slm.model, stack.llm.model = ToyModel(1, stop_every=0), ToyModel(2, stop_every=0)
    stack.slm.delay_s = stack.llm.delay_s = delay_s


def at_once(stack: Stack, num: int) -> asyncio.Event:
    """In each session the SLM writes so many tokens, each for itself, and then no more until the event is set."""
    go_on, written = asyncio.Event(), Counter[Any]()

    async def pace() -> None:
        stream = asyncio.current_task()  # which serves one session
        written[stream] += 1
        if written[stream] > num:
            await go_on.wait()

    stack.slm.max_message_tokens, stack.slm.pace = 1, pace
    return go_on


def expected(
    stack: Stack, num: int, tau: float = 0.5, prompt: tuple[int, ...] = (7, 8, 9)
) -> tuple[list[int], list[str]]:
    return algorithm_1(stack.slm.model, stack.llm.model, prompt, tau, tau, num)


def resume(answer: Answer) -> router_pb2.GenerateRequest:
    return router_pb2.GenerateRequest(session_id=answer.session_id, resume_from=answer.next)


def glued(first: Answer, second: Answer) -> Answer:
    """Both parts as one; the second must begin where the first left off."""
    assert second.error is None, second.error
    assert second.position == first.next
    first.tokens += second.tokens
    first.authors += second.authors
    first.entropies += second.entropies
    first.text += second.text
    first.finished = second.finished
    return first


async def state_of(stub: Any, session_id: str) -> int:
    return (await stored(stub, session_id)).state
