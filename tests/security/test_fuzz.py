"""Whatever comes, nothing crashes: each request is answered or refused by name, and both services go on as before.

`make soak` sends 10,000 to the router and as many to a worker.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from rstitch.v1 import router_pb2, worker_pb2
from tests.support.asking import ask_for, take, until
from tests.support.fuzzing import Fuzzer, sent
from tests.support.toy_stack import Stack
from tests.worker.conftest import StartWorker, model_folder, start_worker

__all__ = ["model_folder", "start_worker"]

_AT_ONCE = 8
COUNTS = [300, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
SESSIONS = tuple(f"s{number}" for number in range(6))
OF_ROUTER: dict[str, tuple[Any, ...]] = {
    "session_id": SESSIONS,
    "text": ("the stones", "a"),
    "role": ("user", "assistant", "system"),
    "ids": tuple(range(5, 60)),
    "tokens": tuple(range(5, 60)),
    "max_new_tokens": (0, 1, 5, 9),
    "page_size": (0, 1, 1000),
    "name": ("p", "q"),
    "page_token": ("",),
    "tau": (0.02, 0.5),
    "tau_return": (0.1,),
    "temperature": (0.0, 1.0),
    "top_p": (0.0, 0.9),
    "threshold": (0.5, 0.9),
    "boundaries": ("a", "e"),
    "end": ("e", ""),
    "prompt": ("", "a"),
    "max_trial_tokens": (0, 4),
    "draft_tokens": (1, 4),
    "keep_consultations": (0,),
    "stop": ("the", "\n"),
    "guard": (0, 1, 2),
    "then": (0, 1, 2),
    "only_if_new": (False, True),
    "request_id": ("", "", "a"),
    "json_schema": ("", "", '{"type": "integer"}'),
}
OF_WORKER: dict[str, tuple[Any, ...]] = {
    "session_id": SESSIONS,
    "source_session_id": SESSIONS,
    "tokens": tuple(range(5, 60)),
    "draft": tuple(range(5, 60)),
    "stop_tokens": (0,),
    "masked_tokens": (7, 9),
    "position": (0, 1, 3),
    "max_tokens": (0, 1, 6),
    "start": (1,),
    "above": (-1.0, 0.3),
    "below": (0.3,),
    "temperature": (0.0, 1.0),
    "top_p": (0.0, 0.9),
    "position_offset": (0,),
    "cache_salt": ("", "a"),
    "head": ("",),
    "window": (0, 4),
    "prefix_checksum": (0,),
}


async def send_all(
    port: int, service: Any, likely: dict[str, tuple[Any, ...]], count: int, needed: set[str]
) -> list[str]:
    """Sends so many requests to all methods of a service, some at once; what was wrong with the answers.

    Methods that are `needed` are to answer some: what is refused at the door tells nothing of what lies behind it.
    """
    fuzzer, wrong, answered = Fuzzer(seed=14, likely=likely), [], set()
    # Of these few get far, and they are the ones that matter most.
    often = [method for method in service.methods if method.name in ("Generate", "Decode")] * 4
    methods = [*service.methods, *often]
    gate = asyncio.Semaphore(_AT_ONCE)

    def draw() -> tuple[Any, list[bytes]]:
        method = fuzzer.dice.choice(methods)
        num = fuzzer.dice.randrange(1, 4) if method.client_streaming else 1
        return method, [fuzzer.request(method) for _ in range(num)]

    async def one(channel: grpc.aio.Channel, number: int, method: Any, requests: list[bytes]) -> None:
        async with gate:
            complaint = await sent(channel, method, requests)
            if complaint is None:
                answered.add(method.name)
            elif complaint:
                shown = b" | ".join(requests)[:300]
                wrong.append(f"{number} {method.name}: {complaint[:400]}  {shown!r}")

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for begin in range(0, count, 500):
            drawn = [draw() for _ in range(min(500, count - begin))]
            await asyncio.gather(*(one(channel, begin + place, *each) for place, each in enumerate(drawn)))
    assert answered >= needed, f"answered are only {answered}"
    return wrong


@pytest.mark.parametrize("count", COUNTS)
async def test_a_router_answers_or_refuses_by_name(stack: Stack, count: int) -> None:
    router = await stack.router(max_new_tokens=12, detach_grace_s=0.2)
    stub = await stack.stub(router)
    before = await take(stub, ask_for(max_new_tokens=30))
    for session in SESSIONS:  # there is one to be told, whichever request comes first
        await take(stub, ask_for(max_new_tokens=3, session_id=session))
    service, needed = router_pb2.DESCRIPTOR.services_by_name["RouterService"], {"Generate", "GetTrajectory"}
    wrong = await send_all(router.port, service, OF_ROUTER, count, needed)
    assert not wrong, "\n".join(wrong)
    after = await take(stub, ask_for(max_new_tokens=30))
    assert after.error is None
    assert (after.tokens, after.text) == (before.tokens, before.text)
    await until(lambda: router.sessions.num_running == 0)
    assert router.sessions.observing._num_running == 0


@pytest.mark.parametrize("count", COUNTS)
async def test_a_worker_answers_or_refuses_by_name(start_worker: StartWorker, count: int) -> None:
    worker, stub = await start_worker(num_pages=64)
    step = worker_pb2.StepRequest(session_id="mine", tokens=[7, 8, 9])
    before = await stub.Step(step)
    service, needed = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"], {"Step", "Decode"}
    wrong = await send_all(worker.port, service, OF_WORKER, count, needed)
    assert not wrong, "\n".join(wrong)
    after = await stub.Step(step)
    assert (after.token, after.entropy) == (before.token, before.entropy)
    info = await stub.GetInfo(worker_pb2.GetInfoRequest())
    assert info.capacity.num_runs == 0
