"""Texts into ids and back over HTTP: those that the models read."""

from __future__ import annotations

import httpx2

from tests.support.gateways import QUESTION, chat


def test_ids_are_those_that_the_models_read(http: httpx2.Client) -> None:
    asked = {"messages": chat()["messages"]}
    made = http.post("/tokenize", json=asked | {"return_token_strs": True}).json()
    assert made["count"] == len(made["tokens"]) == len(made["token_strs"])
    assert made["max_model_len"] == 2048
    used = http.post("/v1/chat/completions", json=chat(max_tokens=1)).json()["usage"]["prompt_tokens"]
    assert made["count"] == used
    plain = http.post("/tokenize", json={"prompt": QUESTION}).json()
    assert QUESTION in http.post("/detokenize", json={"tokens": plain["tokens"]}).json()["prompt"]


def test_what_cannot_be_read_is_refused(http: httpx2.Client) -> None:
    for body in ({}, {"prompt": "a", "messages": chat()["messages"]}):
        assert http.post("/tokenize", json=body).json()["error"]["param"] == "prompt"
    assert http.post("/tokenize", json={"prompt": "a", "model": "nobody"}).status_code == 404
    assert http.post("/detokenize", json={"tokens": [1 << 20]}).status_code == 400
    assert http.post("/detokenize", json={"tokens": ["a"]}).json()["error"]["param"] == "tokens[0]"
