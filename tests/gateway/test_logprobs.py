"""Each token over HTTP: who wrote it, how unsure that was, what it was chosen among; and all of it is the answer."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from rstitch.client import Client, Details, Message
from rstitch.local.stack import LocalStack
from tests.support.gateways import QUESTION, chat, events_of


def near(expected: Any) -> Any:
    """The same but for the last digits, which depend on what is computed beside it."""
    return pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_tokens_are_told_as_by_grpc(http: httpx2.Client, tiny_stack: LocalStack) -> None:
    with Client(tiny_stack.router_address, timeout_s=60) as client:
        asked = [Message("user", QUESTION)]
        answer = client.answer(chat=asked, details=Details(3), max_new_tokens=50, guard=False)
    body = chat(logprobs=True, top_logprobs=3, max_tokens=50, separate_reasoning=False, rstitch={"guard": False})
    whole = http.post("/v1/chat/completions", json=body).json()
    told = whole["choices"][0]["logprobs"]["content"]
    assert len(told) == whole["usage"]["completion_tokens"] == len(answer.tokens)
    place = [(chunk, index) for chunk in answer.chunks for index in range(len(chunk.tokens))]
    for token, (chunk, index) in zip(told, place, strict=True):
        detail = chunk.details[index]
        assert bytes(token["bytes"]) == detail.text
        assert token["logprob"] == near(detail.logprob)
        assert token["rstitch"]["model"] == chunk.model
        assert token["rstitch"]["entropy"] == near(chunk.entropies[index])
        assert token["rstitch"]["id"] == chunk.tokens[index]
        assert token["rstitch"]["position"] == chunk.position + index
        others = token["top_logprobs"]
        assert [bytes(each["bytes"]) for each in others] == [each.text for each in detail.alternatives]
        assert [each["logprob"] for each in others] == near([each.logprob for each in detail.alternatives])
        assert len(others) == 3
        assert others[0]["logprob"] == max(each["logprob"] for each in others)
    assert {token["rstitch"]["model"] for token in told} == {"slm", "llm"}
    assert (
        b"".join(bytes(token["bytes"]) for token in told).decode().startswith(whole["choices"][0]["message"]["content"])
    )


def test_a_stream_tells_the_same_tokens(http: httpx2.Client) -> None:
    body = chat(logprobs=True, top_logprobs=2, max_tokens=50, rstitch={"guard": False})
    whole = http.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    events = events_of(http.post("/v1/chat/completions", json=body | {"stream": True}))[:-1]
    told = [token for event in events for token in (event["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [token["bytes"] for token in told] == [token["bytes"] for token in whole]
    assert [token["logprob"] for token in told] == near([token["logprob"] for token in whole])
    for name in ("model", "id", "position"):
        assert [token["rstitch"][name] for token in told] == [token["rstitch"][name] for token in whole]
    assert [len(token["top_logprobs"]) for token in told] == [2] * len(told)


def test_entropies_come_without_alternatives(http: httpx2.Client) -> None:
    told = http.post("/v1/chat/completions", json=chat(logprobs=True, max_tokens=5)).json()
    for token in told["choices"][0]["logprobs"]["content"]:
        assert token["top_logprobs"] == []
        assert 0 <= token["rstitch"]["entropy"] <= 1
    without = http.post("/v1/chat/completions", json=chat(max_tokens=5)).json()["choices"][0]
    assert without["logprobs"] is None


def test_plain_completions_have_columns(http: httpx2.Client) -> None:
    body = {"model": "rstitch/llm", "prompt": "1 + 2 =", "max_tokens": 6, "logprobs": 2}
    made = http.post("/v1/completions", json=body).json()["choices"][0]
    columns = made["logprobs"]
    assert "".join(columns["tokens"]).startswith(made["text"])
    assert [len(columns[name]) for name in ("token_logprobs", "top_logprobs", "text_offset", "rstitch")] == [6] * 4
    assert columns["text_offset"] == [sum(map(len, columns["tokens"][:index])) for index in range(6)]
    events = events_of(http.post("/v1/completions", json=body | {"stream": True}))[:-1]
    parts = [event["choices"][0]["logprobs"] for event in events if event["choices"][0]["text"]]
    for name in ("tokens", "text_offset"):
        assert [one for part in parts for one in part[name]] == columns[name]
    assert [one for part in parts for one in part["token_logprobs"]] == near(columns["token_logprobs"])
