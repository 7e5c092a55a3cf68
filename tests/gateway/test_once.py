"""A request with an Idempotency-Key is answered once, however often and however nearly at once it comes."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx2
import pytest

from rstitch.client import Client, Source
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack
from rstitch.v1 import router_pb2
from tests.support.asking import until
from tests.support.endless import at_once, endless
from tests.support.fake_router import FakeRouter
from tests.support.gateway_thread import gateway
from tests.support.gateways import chat
from tests.support.toy_stack import Stack

PATH = "/v1/chat/completions"


def headers(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


def text_of(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    if not response.headers["content-type"].startswith("text/event-stream"):
        return str(response.json()["choices"][0]["message"]["content"])
    blocks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    return "".join(block["choices"][0]["delta"].get("content", "") for block in blocks)


@pytest.mark.parametrize(
    "more", [{"max_tokens": 1}, {"n": 2, "temperature": 0.9}], ids=["one", "sampled, of two choices"]
)
def test_twenty_at_once_are_one_answer(http: httpx2.Client, tiny_stack: LocalStack, more: dict[str, Any]) -> None:
    """Without a seed, too, where every answer would be another: so they are one, and not twenty that are alike."""
    body = chat(separate_reasoning=False, **{"max_tokens": 40, **more})
    key = f"at-once-{len(more)}"
    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(lambda _: http.post(PATH, json=body, headers=headers(key)), range(20)))
    assert {response.status_code for response in told} == {200}
    answers = [{name: value for name, value in each.json().items() if name != "created"} for each in told]
    assert all(answer == answers[0] for answer in answers)
    with Client(tiny_stack.router_address) as client:
        kept = [each.session_id for each in client.trajectories() if each.session_id.startswith(answers[0]["id"])]
        assert len(kept) == more.get("n", 1)
        for session_id in kept:
            sources = [segment.source for segment in client.trajectory(session_id).segments]
            assert sources.count(Source.PROMPT) == 1


def test_a_turn_that_comes_twice_is_one_turn(http: httpx2.Client, tiny_stack: LocalStack) -> None:
    """In a session that it names, too; and what goes on in its own session is not given for its answer."""
    body = chat(max_tokens=8)
    first = http.post(PATH, json=body, headers=headers("turns"))
    session = first.headers["x-session-id"]
    told = [http.post(PATH, json=body, headers=headers("turns") | {"x-session-id": session}) for _ in range(3)]
    assert len({text_of(each) for each in told}) == 1
    with Client(tiny_stack.router_address) as client:
        sources = [segment.source for segment in client.trajectory(session).segments]
    assert sources.count(Source.PROMPT) == 2
    late = http.post(PATH, json=body, headers=headers("turns"))
    assert (late.status_code, late.json()["error"]["code"]) == (409, "SESSION_EXISTS")


def test_one_that_was_left_is_gone_on_with(http: httpx2.Client) -> None:
    body = chat(stream=True, separate_reasoning=False)
    with http.stream("POST", PATH, json=body, headers=headers("left")) as response:
        next(response.iter_lines())
    again = http.post(PATH, json=body, headers=headers("left"))
    whole = http.post(PATH, json=chat(separate_reasoning=False))
    assert text_of(again) == text_of(whole)


async def test_twins_before_two_routers_are_one_answer(stack: Stack) -> None:
    """The second reads what the first one's router writes, while it is written."""
    endless(stack, delay_s=0)
    go_on = at_once(stack, 8)
    routers = [await stack.router() for _ in range(2)]
    stub = await stack.stub(routers[1])
    body = {"model": "rstitch/slm", "prompt": "a", "max_tokens": 40, "temperature": 0.9}
    with gateway(f"127.0.0.1:{routers[0].port}") as first, gateway(f"127.0.0.1:{routers[1].port}") as second:
        async with httpx2.AsyncClient(timeout=60) as client:

            def asking(address: str, **more: Any) -> asyncio.Task[httpx2.Response]:
                sent = client.post(f"{address}/v1/completions", json=body | more, headers=headers("twins"))
                return asyncio.create_task(sent)

            one = asking(first)
            await until(lambda: has_begun(stub))
            other = asking(second)
            await until(lambda: any(task.get_name().startswith("follow-") for task in asyncio.all_tasks()))
            go_on.set()
            told = [(await each).json() for each in (one, other)]
    assert told[0]["usage"]["completion_tokens"] == 40
    assert all(answer["id"] == told[0]["id"] for answer in told)
    assert told[0]["choices"][0]["text"] == told[1]["choices"][0]["text"]
    assert told[0]["usage"] == told[1]["usage"]


async def has_begun(stub: Any) -> bool:
    listed = await stub.ListTrajectories(router_pb2.ListTrajectoriesRequest())
    return any(each.session_id.startswith("idem-") for each in listed.trajectories)


def test_without_its_router_it_is_refused_as_any_other(router: FakeRouter) -> None:
    """It was waited for as an answer is that has begun: for half a minute."""
    with gateway("127.0.0.1:1") as address:
        for more in ({}, headers("away")):
            response = httpx2.post(f"{address}{PATH}", json=chat(), headers=more, timeout=20)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "UNREACHABLE")


def test_what_the_router_refuses_otherwise_is_no_answer(plain: httpx2.Client, router: FakeRouter) -> None:
    def refuse(number: int) -> None:
        raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "OTHER_VOCABULARY", "it is so.")

    router.before_event = refuse
    response = plain.post(PATH, json=chat(), headers=headers("refused"))
    assert (response.status_code, response.json()["error"]["code"]) == (409, "OTHER_VOCABULARY")
    assert not router.questions
