"""Who may be answered where: names that are asked for, routers without keys, and bodies of a million faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel, ValidationError

from gateway.native.requests import GenerateBody
from gateway.openai.requests import ChatRequest, CompletionRequest
from gateway.openai.tokens import DetokenizeRequest
from rstitch.authority import make_certificates
from rstitch.local.processes import free_port
from tests.support.fake_router import FakeRouter
from tests.support.gateways import chat, started

MANY = [f"x{number}" for number in range(100_000)]


def test_a_gateway_that_others_reach_answers_nobody_before_an_open_router(router: FakeRouter, tmp_path: Path) -> None:
    make_certificates(tmp_path, {}, 1)
    flags = ["--http-listen", f"0.0.0.0:{free_port()}", "--http-tls-cert", str(tmp_path / "gateway.pem")]
    flags += ["--http-tls-key", str(tmp_path / "gateway.key")]
    with started(router.address, tmp_path, *flags, ca=str(tmp_path / "ca.pem")) as http:
        assert http.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/ready", "/", "/v1/chat/completions"):
            response = http.get(path)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "EXPOSED")
        assert http.post("/v1/chat/completions", json=chat()).status_code == 503
    assert not router.questions


def test_names_that_are_not_allowed_are_refused_wherever_it_listens(router: FakeRouter, tmp_path: Path) -> None:
    flags = ["--allowed-host", "127.0.0.1", "--allowed-host", "Gateway.example"]
    with started(router.address, tmp_path, *flags) as http:
        for host, status in (("gateway.example:8000", 200), ("localhost", 421), ("127.0.0.1", 200), ("x.example", 421)):
            assert http.get("/version", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/chat/completions", ChatRequest, {"model": "rstitch", "messages": [7] * 300_000}),
        ("/v1/completions", CompletionRequest, {"model": "rstitch", "prompt": [[""]] * 300_000}),
        ("/v1/completions", CompletionRequest, {"model": "a", "prompt": "a", "logit_bias": dict.fromkeys(MANY, "")}),
        ("/detokenize", DetokenizeRequest, {"tokens": [""] * 300_000}),
        ("/v1/rstitch/generate", GenerateBody, {"tokens": [""] * 300_000}),
        ("/v1/rstitch/generate", GenerateBody, dict.fromkeys(MANY, 1)),
    ],
)
def test_a_body_of_many_faults_is_refused_by_its_first(
    plain: httpx2.Client, path: str, kind: type[BaseModel], body: Any
) -> None:
    """Each fault that is told is made while nobody else is answered: a million take a quarter of a minute."""
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(body)
    assert refused.value.error_count() <= 6
    response = plain.post(path, json=body)
    assert response.status_code == 400
    assert len(response.content) < 1000
