"""Requests that nobody sends by accident: each is refused or taken, and none is our failure."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.support.fake_router import FakeRouter
from tests.support.gateways import QUESTION, chat, events_of


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else 1


def message(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a", **more}]}


@pytest.mark.parametrize(
    "more",
    [
        message(**{"\ud800": 1}),
        message(content="\ud800"),
        message(role="\ud800"),
        {
            "messages": [
                {"role": "assistant", "content": "a", "tool_calls": [10**400]},
                {"role": "user", "content": "a"},
            ]
        },
        {"chat_template_kwargs": {"a": 10**400}},
        {"chat_template_kwargs": nested(90)},
        {"chat_template_kwargs": {"\ud800": 1}},
        {"model": "\ud800"},
        {"stop": "\ud800"},
        {"cache_salt": "\ud800"},
    ],
    ids=str,
)
def test_values_that_cannot_be_sent_are_refused(plain: httpx2.Client, more: Any) -> None:
    data = json.dumps(chat() | more).encode()
    response = plain.post("/v1/chat/completions", content=data, headers={"content-type": "application/json"})
    assert response.status_code in (400, 404), response.text
    assert response.json()["error"]["message"]
    assert "x-request-id" in response.headers


@pytest.mark.parametrize("body", ['{"n": ' + "1" * 5000 + "}", "[" * 100_000], ids=["long number", "deep"])
def test_json_that_python_cannot_read_is_refused_with_a_remedy(plain: httpx2.Client, body: str) -> None:
    response = plain.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"
    assert "Send an object" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers", [{"traceparent": "\u00e9"}, {"traceparent": "00-zz"}, {"tracestate": "a\tb"}, {"tracestate": "x" * 600}]
)
def test_a_trace_that_is_none_is_dropped(plain: httpx2.Client, router: FakeRouter, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    assert plain.post("/v1/chat/completions", json=chat(), headers=raw).status_code == 200
    (metadata,) = router.metadata
    assert not {"traceparent", "tracestate"} & set(metadata)


def test_a_key_that_is_too_long_is_none(plain: httpx2.Client) -> None:
    assert plain.get("/v1/models", headers={"authorization": f"Bearer {'a' * 5000}"}).status_code == 401


@pytest.mark.parametrize("origin", ["http://[x", "null", "http://evil.example", ""])
def test_another_hosts_page_cancels_nothing(plain: httpx2.Client, router: FakeRouter, origin: str) -> None:
    router.cancelled.clear()
    response = plain.post("/v1/rstitch/trajectories/one/cancel", headers={"origin": origin})
    assert response.status_code == 403
    assert not router.cancelled


def test_our_failure_is_told_as_such_and_logged_by_its_id(plain: httpx2.Client, router: FakeRouter) -> None:
    def fail(number: int) -> None:
        raise ZeroDivisionError

    router.before_event = fail
    response = plain.post("/v1/chat/completions", json=chat(rstitch={"session_id": "known"}))
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_request_that_may_come_twice_may_name_its_session(plain: httpx2.Client, router: FakeRouter) -> None:
    for headers, own in (({}, {"session_id": "mine"}), ({"x-session-id": "mine"}, {})):
        for key in ("k", "k", "l"):
            response = plain.post(
                "/v1/chat/completions", json=chat(rstitch=own), headers={"idempotency-key": key, **headers}
            )
            assert response.status_code == 200
    assert [(each.session_id, each.only_if_new) for each in router.questions] == [("mine", False)] * 4
    assert len({each.request_id for each in router.questions}) == 4


def test_several_prompts_have_one_id_and_usage_as_they_go(http: httpx2.Client) -> None:
    body = {"model": "rstitch", "prompt": ["1 +", "2 +"], "n": 2, "temperature": 1.0, "max_tokens": 4, "stream": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    *events, usage, done = events_of(http.post("/v1/completions", json=body | {"stream_options": options}))
    assert done == "[DONE]"
    assert not any("error" in event for event in events)
    assert len({event["id"] for event in [*events, usage]}) == 1
    assert {event["choices"][0]["index"] for event in events} == {0, 1, 2, 3}
    assert any("usage" in event for event in events)
    assert usage["usage"]["completion_tokens"] == 16


def test_thinking_that_is_left_out_is_not_spelled_either(http: httpx2.Client) -> None:
    body = chat(logprobs=True, include_reasoning=False)
    choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    spelled = "".join(token["token"] for token in choice["logprobs"]["content"])
    assert spelled.strip() == choice["message"]["content"].strip()


def test_without_a_seed_each_sampled_answer_is_another(http: httpx2.Client) -> None:
    body = chat(messages=[{"role": "user", "content": QUESTION}], temperature=2.0, max_tokens=20, logprobs=True)
    told = [http.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"] for _ in range(3)]
    assert len({tuple(token["rstitch"]["id"] for token in tokens) for tokens in told}) > 1


def test_log_probabilities_of_an_echo_are_refused(plain: httpx2.Client) -> None:
    body = {"model": "rstitch", "prompt": "a", "echo": True, "logprobs": 1}
    assert plain.post("/v1/completions", json=body).json()["error"]["param"] == "logprobs"


def test_our_description_tells_failures_as_they_are(plain: httpx2.Client) -> None:
    described = plain.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, told in methods.items():
            assert "422" not in told["responses"], (method, path)
            content = told["responses"]["4XX"]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorBody"}, (method, path)
    failed = plain.post("/v1/chat/completions", json={}).json()["error"]
    assert set(described["components"]["schemas"]["Failure"]["required"]) == set(failed)
