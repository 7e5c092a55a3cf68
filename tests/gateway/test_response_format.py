"""`response_format`: the content is JSON of the schema, whoever writes and however it is sent."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import jsonschema
import pytest

from tests.support.gateways import chat, events_of

SCHEMA = {
    "type": "object",
    "properties": {"who": {"enum": ["Ada", "Ben", "Kofi"]}, "sum": {"type": "integer", "minimum": 0, "maximum": 999}},
    "required": ["who", "sum"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}


@pytest.mark.parametrize("policy", ["threshold:tau=0.02", "llm_only", "slm_only", "speculative:draft_tokens=4"])
def test_the_content_is_what_the_schema_allows(http: httpx2.Client, policy: str) -> None:
    body: dict[str, Any] = chat(response_format=FORMAT, max_tokens=400, rstitch={"policy": policy, "guard": False})
    whole = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert whole["finish_reason"] == "stop"
    jsonschema.validate(json.loads(whole["message"]["content"]), SCHEMA)
    streamed = events_of(http.post("/v1/chat/completions", json=body | {"stream": True}))
    deltas = [each["choices"][0]["delta"].get("content") or "" for each in streamed[:-1] if each["choices"]]
    assert "".join(deltas) == whole["message"]["content"]


def test_any_object_is_one(http: httpx2.Client) -> None:
    body = chat(response_format={"type": "json_object"}, max_tokens=120, temperature=0.7, seed=5)
    whole = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert whole["message"]["content"].startswith("{")
    if whole["finish_reason"] == "stop":
        assert isinstance(json.loads(whole["message"]["content"]), dict)
    text = http.post("/v1/chat/completions", json=chat(response_format={"type": "text"}, max_tokens=20)).json()
    assert not text["choices"][0]["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    ("schema", "more", "param"),
    [
        ({"not": {}}, {}, "response_format"),
        # Each would take a service's time and memory for good: a few seconds of another process end it.
        ({"type": "integer", "multipleOf": 9999991}, {}, "response_format"),
        ({"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in range(19)]}, {}, "response_format"),
        (SCHEMA, {"stop": ["x"]}, "stop"),
    ],
)
def test_what_no_router_can_hold_names_its_parameter(http: httpx2.Client, schema: Any, more: Any, param: str) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    response = http.post("/v1/chat/completions", json=chat(response_format=asked, **more))
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
