"""What only the router can refuse is told by the parameter that said it, wherever in a request that was."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.support.gateways import QUESTION, chat

LONG = "12 boxes. " * 4000
EXIT = {"early_exit": {"threshold": 0.9, "boundaries": ["x" * 5000]}}


def told(response: httpx2.Response) -> tuple[int, str | None, str | None]:
    error = response.json()["error"]
    assert error["message"].startswith(error["param"])
    return response.status_code, error["param"], error["code"]


@pytest.mark.parametrize(
    "word",
    [
        "profile:nobody",
        "learned:nobody",
        "threshold:tau=7",
        "speculative:draft_tokens=100",
        "llm_only+budget:llm_tokens=0,stop=true",
        "threshold:tau=0.1+early_exit:threshold=2",
    ],
)
def test_a_model_that_cannot_be_asked_for_does_not_exist(http: httpx2.Client, word: str) -> None:
    for path, body in (("chat/completions", chat()), ("completions", {"prompt": QUESTION})):
        response = http.post(f"/v1/{path}", json=body | {"model": f"rstitch:{word}"})
        assert told(response) == (404, "model", "model_not_found")
        assert response.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("own", "headers", "status", "param"),
    [
        ({"tau": 1.9, "policy": None}, {}, 200, None),
        ({"policy": "threshold:tau=7"}, {}, 400, "rstitch.policy"),
        ({"policy": "learned:nobody"}, {}, 404, "rstitch.policy"),
        ({"profile": "nobody"}, {}, 404, "rstitch.profile"),
        ({"policy": "llm_only", "budget": {"llm_tokens": 0, "stop": True}}, {}, 400, "rstitch.budget.llm_tokens"),
        (EXIT, {}, 400, "rstitch.early_exit.boundaries[0]"),
        ({}, {"x-rstitch-policy": "threshold:tau=7"}, 400, "x-rstitch-policy"),
        ({}, {"x-rstitch-policy": "profile:nobody"}, 404, "x-rstitch-policy"),
        ({"policy": "profile:nobody"}, {"x-rstitch-policy": "slm_only"}, 404, "rstitch.policy"),
    ],
)
def test_a_policy_is_told_by_what_said_it(
    http: httpx2.Client, own: Any, headers: dict[str, str], status: int, param: str | None
) -> None:
    response = http.post("/v1/chat/completions", json=chat(rstitch=own, max_tokens=1), headers=headers)
    assert response.status_code == status, response.text
    if param is not None:
        assert told(response)[1] == param


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        ("/v1/chat/completions", chat(max_tokens=5000), "max_tokens"),
        ("/v1/chat/completions", chat(max_completion_tokens=5000, max_tokens=1), "max_completion_tokens"),
        ("/v1/completions", {"prompt": LONG}, "prompt"),
        ("/v1/completions", {"prompt": ""}, "prompt"),
        ("/v1/completions", {"prompt": [5] * 5000}, "prompt"),
        ("/v1/completions", {"prompt": [5, 1 << 20]}, "prompt[1]"),
        ("/v1/completions", {"prompt": QUESTION, "max_tokens": 5000}, "max_tokens"),
        ("/tokenize", {"prompt": LONG}, "prompt"),
        ("/tokenize", {"prompt": ""}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"messages": 1}}, None),
        ("/detokenize", {"tokens": [5] * 5000}, "tokens"),
        ("/detokenize", {"tokens": [5, 1 << 20]}, "tokens[1]"),
    ],
)
def test_a_text_is_told_by_what_had_it(http: httpx2.Client, path: str, body: dict[str, Any], param: str | None) -> None:
    response = http.post(path, json={"model": "rstitch", **body})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == (param or "chat_template_kwargs.messages"), response.text


def test_a_prediction_changes_nothing(http: httpx2.Client) -> None:
    """It may make an answer faster and nothing else; of ours it makes none so."""
    plain = http.post("/v1/chat/completions", json=chat(max_tokens=10))
    body = chat(max_tokens=10, prediction={"type": "content", "content": "It is 84."})
    response = http.post("/v1/chat/completions", json=body)
    assert response.json()["choices"][0]["message"] == plain.json()["choices"][0]["message"]
    assert "x-rstitch-ignored" not in response.headers
