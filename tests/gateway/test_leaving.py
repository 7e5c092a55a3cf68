"""A client that leaves ends its answer, and a killed worker does not."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from rstitch.client import Client
from rstitch.errors import NotFound
from rstitch.local.stack import LocalStack
from tests.support.gateways import chat, events_of, until

# It goes round in circles until its tokens are up.
LONG = {"messages": [{"role": "user", "content": "How many?"}], "max_tokens": 1500}


@pytest.fixture
def grpc(tiny_stack: LocalStack) -> Any:
    with Client(tiny_stack.router_address, timeout_s=100) as client:
        yield client


def body(session: str, **more: Any) -> dict[str, Any]:
    return chat(**LONG, rstitch={"session_id": session, "guard": False}, **more)


def test_a_stream_that_is_left_ends_its_answer(http: httpx2.Client, grpc: Client) -> None:
    seen = 0
    with http.stream("POST", "/v1/chat/completions", json=body("left-stream", stream=True)) as response:
        for line in response.iter_lines():
            delta = json.loads(line[6:])["choices"][0]["delta"] if line.startswith("data: {") else {}
            seen += bool(delta.get("content") or delta.get("reasoning"))
            if seen >= 3:
                break
    until(lambda: grpc.trajectory("left-stream").state == "interrupted")
    assert grpc.status().num_running == 0


def test_a_whole_answer_that_is_not_waited_for_ends(http: httpx2.Client, grpc: Client) -> None:
    def ask() -> None:
        with pytest.raises(httpx2.ReadTimeout):
            http.post("/v1/chat/completions", json=body("left-whole"), timeout=httpx2.Timeout(30, read=1.0))

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    until(lambda: grpc.trajectory("left-whole").state != "running")
    assert grpc.trajectory("left-whole").state == "interrupted"


def test_who_wants_it_lets_the_answer_go_on(http: httpx2.Client, grpc: Client) -> None:
    own = {"rstitch": {"session_id": "goes-on", "on_disconnect": "continue"}, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=chat(**own)) as response:
        next(response.iter_lines())
    until(lambda: grpc.trajectory("goes-on").state == "finished")


@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_killed_amid_an_answer_changes_nothing(
    stream: bool, tiny_stack: LocalStack, http: httpx2.Client, grpc: Client
) -> None:
    """The LLM writes alone, so that nothing goes on without the worker that is killed."""

    def asked(session: str) -> str:
        request = body(session, stream=stream, separate_reasoning=False)
        return text_of(http.post("/v1/chat/completions", json=request | {"model": "rstitch/llm", "max_tokens": 400}))

    session = f"killed-{stream}"
    expected = asked(f"whole-{stream}")
    worker = tiny_stack.worker("llm")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(asked, session)
        until(lambda: is_begun(grpc, session))
        worker.kill()
        try:
            assert grpc.trajectory(session).state == "running"
        finally:
            worker.restart()
        assert answer.result() == expected


def is_begun(grpc: Client, session: str) -> bool:
    """Whether some of the answer is kept."""
    try:
        return any(segment.source == "llm" for segment in grpc.trajectory(session).segments)
    except NotFound:
        return False


def text_of(response: httpx2.Response) -> str:
    if response.headers["content-type"].startswith("text/event-stream"):
        deltas = (event["choices"][0]["delta"] for event in events_of(response) if event != "[DONE]")
        return "".join(delta.get("content", "") for delta in deltas)
    return str(response.json()["choices"][0]["message"]["content"])
