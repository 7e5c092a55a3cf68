"""Toy workers of several a role, and who of them was asked for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router_svc.main import Router
from router_svc.trajectory.binding import Binding
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, ask_for, take, threshold, until
from tests.support.endless import endless
from tests.support.fake_worker import FakeWorker
from tests.support.toy_stack import Stack


async def fleet(stack: Stack, slms: int = 2, llms: int = 2, delay_s: float = 0.002) -> None:
    """Toy workers that forget nothing by themselves: whatever is computed twice was moved."""
    endless(stack, delay_s)
    for worker in (stack.slm, stack.llm):
        worker.evict_share = 0
    await stack.grow(slms, llms)


def workers(stack: Stack, role: str) -> list[FakeWorker]:
    return stack.slms if role == "slm" else stack.llms


def homes(members: Sequence[FakeWorker], session_id: str) -> list[FakeWorker]:
    """Those that were asked for runs of a session."""
    return [each for each in members if any(request.session_id == session_id for request in each.requests)]


def begins(worker: FakeWorker, session_id: str) -> int:
    """How often a worker was fed a session from its first token on."""
    return sum(request.session_id == session_id and request.position == 0 for request in worker.requests)


async def binding(router: Router, session_id: str) -> Binding:
    header = await router.store.header(session_id)
    assert header is not None
    return header.binding


async def all_ready(stub: Any, num: int) -> Any:
    """Waits until so many workers take sessions, and returns the status."""

    async def ready() -> Any:
        status = await stub.GetStatus(router_pb2.GetStatusRequest())
        return status if sum(each.ready and not each.draining for each in status.members) == num else None

    return await until(ready)


async def ask_turns(stubs: Sequence[Any], session_id: str, num: int = 3) -> list[Answer]:
    """Asks a session so many questions, each by the next of the routers."""
    answers = []
    for turn in range(num):
        request = ask_for((5 + turn, 6, 7), session_id=session_id, policy=threshold(0.5), max_new_tokens=20)
        answers.append(await take(stubs[turn % len(stubs)], request))
        assert answers[-1].error is None, answers[-1].error
    return answers
