"""A client that leaves ends its answer, and a killed worker does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from rstitch.client import Client
from rstitch.local.stack import LocalStack
from tests.support.gateways import chat, until

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
def test_a_killed_worker_changes_nothing(stream: bool, tiny_stack: LocalStack, http: httpx2.Client) -> None:
    def words(on_text: Callable[[], None]) -> str:
        request = chat(stream=stream, separate_reasoning=False, max_tokens=60)
        if not stream:
            on_text()
            return str(http.post("/v1/chat/completions", json=request).json()["choices"][0]["message"]["content"])
        made = ""
        with http.stream("POST", "/v1/chat/completions", json=request) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    made += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                    if len(made) > 10:
                        on_text()
        return made

    expected = words(lambda: None)
    restarting: list[threading.Thread] = []

    def kill() -> None:
        if not restarting:
            worker = tiny_stack.worker("llm")
            worker.kill()
            restarting.append(threading.Thread(target=worker.restart))
            restarting[0].start()

    try:
        assert words(kill) == expected
    finally:
        restarting[0].join()
