"""What is refused, and how: an error object that clients raise, with the parameter at fault and the right status."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import grpc
import httpx2
import pytest

from rstitch.errors import RstitchError, invalid
from tests.support.fake_router import FakeRouter
from tests.support.gateways import chat, events_of, started


def said(content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content, **more}]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": "nobody"}, "model"),
        ({"model": "rstitch:threshold:tau=abc"}, "model"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        (said("x", role="nobody"), "messages[0].role"),
        (said(None), "messages[0].content"),
        (said(7), "messages[0].content"),
        (said([]), "messages[0].content"),
        (said([{"type": "image_url", "image_url": {"url": "x"}}]), "messages[0].content[0]"),
        (said([{"type": "text", "text": "a"}, {"type": "input_audio"}]), "messages[0].content[1]"),
        (said("x", colour="red"), "messages[0].colour"),
        (said("x", name=5), "messages[0].name"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 9, "temperature": 1}, "n"),
        ({"n": 2}, "n"),
        ({"n": 2, "temperature": 1, "rstitch": {"session_id": "one"}}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-308}, "repetition_penalty"),
        ({"repetition_penalty": 100.1}, "repetition_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five"),
        ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"rstitch": {"tau": 3}}, "rstitch.tau"),
        ({"rstitch": {"tau": 0.1, "profile": "x"}}, "rstitch.profile"),
        ({"rstitch": {"policy": "nobody"}}, "rstitch.policy"),
        ({"rstitch": {"colour": 1}}, "rstitch.colour"),
        ({"rstitch": {"budget": {"llm": 1}}}, "rstitch.llm"),
    ],
)
def test_a_bad_chat_names_its_parameter(plain: httpx2.Client, router: FakeRouter, more: Any, param: str) -> None:
    response = plain.post("/v1/chat/completions", json=chat() | more)
    error = response.json()["error"]
    assert response.status_code == (404 if param == "model" and isinstance(more["model"], str) else 400)
    assert error["param"] == param
    assert error["message"].endswith(".")
    assert not router.questions


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": [1, 2], "echo": True}, "echo"),
        ({"prompt": ["a", "b"], "rstitch": {"session_id": "one"}}, "prompt"),
    ],
)
def test_a_bad_completion_names_its_parameter(plain: httpx2.Client, more: Any, param: str) -> None:
    response = plain.post("/v1/completions", json={"model": "rstitch", "prompt": "a"} | more)
    assert response.status_code == 400
    assert response.json()["error"]["param"].partition("[")[0] == param


def test_missing_fields_are_named(plain: httpx2.Client) -> None:
    for path, field in (("chat/completions", "messages"), ("completions", "prompt")):
        error = plain.post(f"/v1/{path}", json={"model": "rstitch"}).json()["error"]
        assert (error["param"], error["code"]) == (field, "missing_parameter")
    assert plain.post("/v1/chat/completions", json={"messages": []}).json()["error"]["param"] in ("model", "messages")


@pytest.mark.parametrize("body", ["", "{", "[]", "5", '"x"', "null", "[" * 100_000, '{"a":' * 100_000, "\ud800x"])
def test_what_is_no_object_of_json_is_refused(plain: httpx2.Client, body: str) -> None:
    data = body.encode("utf-8", "surrogatepass")
    response = plain.post("/v1/chat/completions", content=data, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("DELETE", "/v1/nothing", 404), ("GET", "/v1/completions", 405), ("PUT", "/", 405)],
)
def test_unknown_paths_and_methods_are_error_objects(plain: httpx2.Client, method: str, path: str, status: int) -> None:
    response = plain.request(method, path)
    assert response.status_code in (status, 404)
    assert set(response.json()["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_taken_as_json(plain: httpx2.Client, kind: str) -> None:
    """A page of somebody else's can make a browser send these to here, and no JSON."""
    response = plain.post("/v1/chat/completions", content=json.dumps(chat()), headers={"content-type": kind})
    assert response.status_code == 415


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_other_hosts_are_refused(plain: httpx2.Client, host: str) -> None:
    assert plain.get("/health", headers={"host": host}).status_code == 421


def test_size_and_encoding_of_a_body_are_bounded(plain: httpx2.Client) -> None:
    large = {"content-type": "application/json", "content-length": str(1 << 40)}
    with socket.create_connection((plain.base_url.host, plain.base_url.port)) as wire:
        lines = [b"POST /v1/chat/completions HTTP/1.1", b"host: localhost"]
        lines += [f"{name}: {value}".encode() for name, value in large.items()]
        wire.sendall(b"\r\n".join([*lines, b"", b""]))
        assert b" 413 " in wire.recv(4096).partition(b"\r\n")[0]

    def endless() -> Any:
        for _ in range(17):
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json"}
    with contextlib.suppress(httpx2.WriteError):  # the connection had ended before all was sent
        assert plain.post("/v1/chat/completions", content=endless(), headers=headers).status_code == 413
    zipped = headers | {"content-encoding": "gzip"}
    assert plain.post("/v1/chat/completions", content=b"x", headers=zipped).status_code == 415


def test_a_body_that_does_not_end_is_refused(router: FakeRouter, tmp_path: Any) -> None:
    with (
        started(router.address, tmp_path, "--body-timeout-s", "0.3") as http,
        socket.create_connection((http.base_url.host, http.base_url.port)) as wire,
    ):
        wire.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        assert b" 408 " in wire.recv(4096).partition(b"\r\n")[0]


_CASES = [
    (grpc.StatusCode.INVALID_ARGUMENT, 400, "invalid_request_error"),
    (grpc.StatusCode.UNAUTHENTICATED, 401, "authentication_error"),
    (grpc.StatusCode.PERMISSION_DENIED, 403, "permission_error"),
    (grpc.StatusCode.NOT_FOUND, 404, "not_found_error"),
    (grpc.StatusCode.FAILED_PRECONDITION, 409, "conflict_error"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "rate_limit_error"),
    (grpc.StatusCode.INTERNAL, 500, "server_error"),
    (grpc.StatusCode.UNIMPLEMENTED, 501, "invalid_request_error"),
]


@pytest.mark.parametrize(("code", "status", "kind"), _CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_router_refuses_is_refused_before_a_byte(
    plain: httpx2.Client, router: FakeRouter, code: grpc.StatusCode, status: int, kind: str, stream: bool
) -> None:
    def refuse(number: int) -> None:
        raise RstitchError(code, "SOME_REASON", "it is so.", field="max_new_tokens", remedy="Do otherwise.")

    router.before_event = refuse
    response = plain.post("/v1/chat/completions", json=chat(stream=stream, rstitch={"session_id": "known"}))
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == kind
    assert error["code"] == response.headers["x-rstitch-error"] == "SOME_REASON"
    assert error["param"] == "max_completion_tokens"
    assert error["message"] == "max_completion_tokens: it is so. Do otherwise."
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"


def test_a_quota_says_when_to_come_again(plain: httpx2.Client, router: FakeRouter) -> None:
    def refuse(number: int) -> None:
        raise RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA", "enough.", retry_after_s=1.5)

    router.before_event = refuse
    response = plain.post("/v1/chat/completions", json=chat(rstitch={"session_id": "known"}))
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")


def test_what_fails_amid_a_stream_ends_it_with_an_error_object(plain: httpx2.Client, router: FakeRouter) -> None:
    sent = 0

    def fail(number: int) -> None:
        nonlocal sent
        sent += 1
        if sent == 8:
            raise invalid("stop", "it went wrong.", "Try another.")

    router.before_event = fail
    response = plain.post("/v1/chat/completions", json=chat(stream=True))
    *events, error, done = events_of(response)
    assert done == "[DONE]"
    assert error["error"]["message"] == "stop: it went wrong. Try another."
    assert all("choices" in event for event in events)
    assert events


def test_no_router_is_503(tmp_path: Any) -> None:
    with started("127.0.0.1:1", tmp_path) as http:
        assert http.get("/health").status_code == 200
        for response in (http.get("/ready"), http.get("/v1/models"), http.post("/v1/chat/completions", json=chat())):
            assert response.status_code == 503
            assert response.json()["error"]["type"] == "service_unavailable_error"


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer a\u00e9"])
def test_a_header_that_is_no_key(plain: httpx2.Client, header: str) -> None:
    response = plain.get("/v1/models", headers=[(b"authorization", header.encode("latin-1"))])
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"


def test_keys_and_traces_are_handed_on(plain: httpx2.Client, router: FakeRouter) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    plain.post("/v1/chat/completions", json=chat(), headers={"authorization": "Bearer rs_secret", "traceparent": trace})
    (metadata,) = router.metadata
    assert metadata["authorization"] == "Bearer rs_secret"
    assert metadata["traceparent"] == trace


def test_answers_say_how_they_may_be_used(plain: httpx2.Client) -> None:
    response = plain.get("/health", headers={"x-request-id": "mine-7"})
    assert response.headers["x-request-id"] == "mine-7"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "server" not in response.headers
    assert plain.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"
