"""Another server beside ours is asked by OpenAI's chat completions; what it does not say is not made up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import typer

from evals.asking.ask import Job, ask
from evals.asking.load import Load
from evals.asking.openai_server import OpenAiServer
from evals.asking.systems import Terms
from evals.asking.values import outside_server
from evals.figures.answers import under_load
from evals.tasks.data import Problem, load_data
from evals.tasks.task import load
from rstitch.client.types import Sampling
from rstitch.errors import Unavailable


class Scripted(BaseHTTPRequestHandler):
    """One model that answers every question with its own words, and none that has `refuse` in it."""

    protocol_version = "HTTP/1.1"
    asked: list[dict[str, Any]]
    connections: set[Any]
    hangs_up = False  # after each answer, without a word

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "scripted"}]})

    def do_POST(self) -> None:
        self.connections.add(self.client_address)
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, **question})
        words = question["messages"][-1]["content"] if "messages" in question else question["prompt"]
        if "refuse" in words:
            self._reply(400, {"error": "refused"})
            return
        said = {"text": words} if "prompt" in question else {"message": {"role": "assistant", "content": words}}
        usage = {"completion_tokens": len(words.split())}
        self._reply(200, {"choices": [{"finish_reason": "length", **said}], "usage": usage})
        self.close_connection = self.hangs_up

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        """Keeps what was asked out of the output of the tests."""


def problem(words: str) -> Problem:
    return Problem(0, "0", words, "")


@pytest.fixture
def url() -> Iterator[str]:
    Scripted.asked, Scripted.connections = [], set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


async def test_it_is_asked_what_ours_is_asked_and_its_tokens_are_the_llms(url: str) -> None:
    problems = load_data(load("tiny"), split="dev", seed=0, n=12).problems
    with closing(OpenAiServer("other", url, Terms(77))) as server:
        await server.try_out(problems[0])
        records = await ask([Job(server, problem) for problem in problems], Load(3))
    assert [record.text for record in records] == [problem.prompt for problem in problems]
    assert all(record.num_tokens == len(record.text.split()) and record.finish == "length" for record in records)
    sent = {(a["path"], a["model"], a["max_tokens"], a["temperature"], "seed" in a) for a in Scripted.asked}
    assert sent == {("/v1/chat/completions", "scripted", 77, 0.0, False)}
    assert len(Scripted.connections) <= 3
    (row,) = under_load(records, Load(3))
    assert row["llm_share"] == 1
    assert "ttft_p50_ms" not in row, "nobody saw a first token"


async def test_where_questions_come_as_they_like_nobody_sees_a_first_token_either(url: str) -> None:
    with closing(OpenAiServer("other", url, Terms(5))) as server:
        records = await ask([Job(server, problem(words)) for words in ("one", "two")], Load(rate=50))
    assert [record.client_ttft_ms for record in records] == [0, 0]


async def test_a_connection_that_the_server_has_closed_is_made_anew(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "hangs_up", True)
    with closing(OpenAiServer("other", url, Terms(5))) as server:
        texts = [(await server.answer(problem(words))).text for words in ("one", "two", "three")]
    assert texts == ["one", "two", "three"]
    assert len(Scripted.connections) == 3


async def test_sampling_stops_and_plain_text_reach_it(url: str) -> None:
    terms = Terms(5, Sampling(0.6, top_p=0.9, seed=3), input="text", stop=("END",))
    with closing(OpenAiServer("other", url, terms)) as server:
        await server.answer(problem("plain words"), sample=2)
    (asked,) = Scripted.asked
    wanted = {"path": "/v1/completions", "prompt": "plain words", "temperature": 0.6, "top_p": 0.9, "seed": 5}
    assert {**asked, **wanted, "stop": ["END"]} == asked


async def test_a_server_that_refuses_or_is_not_there_is_named(url: str) -> None:
    with closing(OpenAiServer("other", url, Terms(5))) as server, pytest.raises(Unavailable) as refused:
        await server.answer(problem("refuse this"))
    assert str(refused.value).startswith(f"other ({url}): HTTP 400: ")
    with closing(OpenAiServer("gone", "http://127.0.0.1:9/v1", Terms(5))) as server, pytest.raises(Unavailable) as lost:
        await server.try_out(problem("hello"))
    assert str(lost.value).startswith("gone (http://127.0.0.1:9/v1): ")


def test_the_flag_wants_a_name_and_an_address() -> None:
    assert outside_server("vllm=http://localhost:8000/v1") == ("vllm", "http://localhost:8000/v1")
    for text in ("http://localhost:8000/v1", "vllm=localhost:8000", "=http://x"):
        with pytest.raises(typer.BadParameter, match="NAME=URL"):
            outside_server(text)
