"""Keys, owners and quotas hold on every route, and every wire of the stack has certificates."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx2
import pytest

from rstitch.local.stack import GatewayOptions, LocalStack
from tests.support.gateways import chat, events_of

# What tells nothing of anybody's.
OPEN = {"/health", "/ready", "/version", "/openapi.json"}


@pytest.fixture(scope="module")
def locked() -> Iterator[LocalStack]:
    with LocalStack(secure=True, gateway=GatewayOptions()) as stack:
        yield stack


def key_of(stack: LocalStack, tenant: str, *flags: str) -> str:
    file = str(stack.folder / "lock" / "keys.json")
    command = [sys.executable, "-m", "router_svc.access", "add", "--file", file, "--tenant", tenant]
    command += ["--scope", "generate,trajectories", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def keys(locked: LocalStack) -> dict[str, str]:
    made = {
        "a": key_of(locked, "a"),
        "b": key_of(locked, "b"),
        "few": key_of(locked, "few", "--requests-per-minute", "1"),
    }
    return made


@pytest.fixture
def http(locked: LocalStack) -> Iterator[httpx2.Client]:
    trusted = ssl.create_default_context(cafile=str(locked.folder / "lock" / "ca.pem"))
    with httpx2.Client(base_url=f"https://{locked.gateway.address}", verify=trusted, timeout=60) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def taken(http: httpx2.Client, key: str) -> None:
    """Waits until the router has read the file that the key was put into."""
    ends = time.monotonic() + 30
    while http.get("/v1/chat/completions", headers=bearer(key)).status_code == 401:
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_without_a_key_no_route_tells_anything(http: httpx2.Client) -> None:
    routes = http.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/models"} <= set(routes)
    bodies = {
        "/v1/chat/completions": chat(),
        "/v1/completions": {"model": "rstitch", "prompt": "a"},
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [5]},
        "/v1/rstitch/generate": {"text": "a"},
        "/v1/rstitch/trajectories/{session_id}/label": {"right": True},
    }
    for path, methods in routes.items():
        if path in OPEN:
            continue
        for method in methods:
            filled = re.sub(r"\{\w+\}", "one", path)
            json = bodies.get(path) if method == "post" else None
            for headers in ({}, bearer("rs_nobodys_key")):
                response = http.request(method.upper(), filled, json=json, headers=headers)
                assert response.status_code == 401, (method, path, response.text)
                assert response.json()["error"]["type"] == "authentication_error"


def test_a_key_opens_what_is_its_tenants_and_nothing_else(http: httpx2.Client, keys: dict[str, str]) -> None:
    for key in keys.values():
        taken(http, key)
    made = http.post("/v1/chat/completions", json=chat(max_tokens=4), headers=bearer(keys["a"])).json()
    path = f"/v1/chat/completions/{made['id']}"
    assert http.get(path, headers=bearer(keys["a"])).json()["choices"][0]["message"] == made["choices"][0]["message"]
    foreign, unknown = (http.get(where, headers=bearer(keys["b"])) for where in (path, "/v1/chat/completions/nobody"))
    assert foreign.status_code == unknown.status_code == 404
    told = (foreign.json()["error"]["message"], unknown.json()["error"]["message"])
    assert told[0].replace(made["id"], "ID") == told[1].replace("nobody", "ID")
    assert http.delete(path, headers=bearer(keys["b"])).status_code == 404
    assert http.get("/v1/chat/completions", headers=bearer(keys["b"])).json()["data"] == []
    assert len(http.get("/v1/chat/completions", headers=bearer(keys["a"])).json()["data"]) == 1


def test_a_quota_is_429_with_the_time_to_wait(http: httpx2.Client, keys: dict[str, str]) -> None:
    taken(http, keys["few"])
    answers = [
        http.post("/v1/chat/completions", json=chat(max_tokens=1, stream=True), headers=bearer(keys["few"]))
        for _ in range(2)
    ]
    assert events_of(answers[0])[-1] == "[DONE]"
    assert answers[1].status_code == 429
    assert int(answers[1].headers["retry-after"]) > 0
    assert answers[1].json()["error"]["type"] == "rate_limit_error"
