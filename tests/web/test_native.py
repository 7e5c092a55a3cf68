"""The contract as JSON over HTTP: what the command line prints, and refusals by the contract's names."""

from __future__ import annotations

import json
import threading
from typing import Any

import grpc
import httpx2
import pytest
from typer.testing import CliRunner

from rstitch.cli.app import app
from rstitch.client import Client, KeptProfile, Threshold
from rstitch.client.specs import parse
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack
from rstitch.v1 import router_pb2 as pb
from tests.support.fake_router import FakeRouter
from tests.support.gateways import QUESTION

GENERATE = "/v1/rstitch/generate"
TRAJECTORIES = "/v1/rstitch/trajectories"


def events(response: httpx2.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in response.text.split("\n\n") if block and not block.startswith(":")]
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def printed(router: FakeRouter, *command: str) -> list[Any]:
    result = CliRunner().invoke(app, [*command, "--json", "--router", router.address])
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def without_ids(found: list[Any]) -> list[Any]:
    return [{name: value for name, value in event.items() if name != "session_id"} for event in found]


def test_an_answer_is_the_events_that_the_command_line_prints(router: FakeRouter, http: httpx2.Client) -> None:
    found = events(http.post(GENERATE, json={"chat": [{"role": "user", "content": "What?"}]}))
    assert without_ids(found) == without_ids(printed(router, "ask", "What?"))
    assert [found[0]["event"], found[-1]["event"]] == ["started", "finished"]
    assert {event["event"] for event in found} == {"started", "chunk", "switch", "finished"}


def test_a_question_reaches_the_router_as_it_was_asked(router: FakeRouter, http: httpx2.Client) -> None:
    body = {
        "tokens": [7, 8, 9],
        "policy": "threshold:tau=0.25,tau_return=0.125+early_exit:threshold=0.5+budget:llm_tokens=20,stop=true",
        "sampling": {
            "temperature": 0.5,
            "top_p": 0.75,
            "top_k": 4,
            "seed": 2**63,
            "min_p": 0.125,
            "logit_bias": {"7": -2},
        },
        "details": {"top_logprobs": 3},
        "max_new_tokens": 9,
        "stop": ["x", "y"],
        "stop_token_ids": [3],
        "session_id": "mine",
        "guard": False,
        "cache_salt": "salt",
    }
    response = http.post(GENERATE, json=body, headers={"authorization": "Bearer key"})
    assert response.headers["x-session-id"] == "mine"
    asked = router.questions[-1]
    assert router.metadata[-1]["authorization"] == "Bearer key"
    assert list(asked.tokens.ids) == [7, 8, 9]
    assert (asked.policy.threshold.tau, asked.policy.threshold.tau_return) == (0.25, 0.125)
    assert asked.early_exit.threshold == 0.5
    assert (asked.budget.llm_tokens, asked.budget.then) == (20, pb.BUDGET_THEN_STOP)
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.top_k, asked.sampling.seed) == (
        0.5,
        0.75,
        4,
        2**63,
    )
    assert (asked.sampling.min_p, dict(asked.sampling.logit_bias)) == (0.125, {7: -2})
    assert asked.details.top_logprobs == 3
    assert (asked.max_new_tokens, list(asked.stop), list(asked.stop_token_ids)) == (9, ["x", "y"], [3])
    assert (asked.session_id, asked.guard, asked.cache_salt) == ("mine", pb.GUARD_OFF, "salt")
    assert asked.on_disconnect == pb.ON_DISCONNECT_STOP
    assert not asked.only_if_new
    http.post(GENERATE, json={"text": "What?", "on_disconnect": "continue", "only_if_new": True, "request_id": "r"})
    assert router.questions[-1].only_if_new
    assert router.questions[-1].request_id == "r"
    assert (router.questions[-1].text, router.questions[-1].on_disconnect) == ("What?", pb.ON_DISCONNECT_CONTINUE)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "input", "Give exactly one of them"),
        ({"text": "a", "tokens": [1]}, "input", "Give exactly one of them"),
        ({"text": "a", "policy": "treshold:tau=1"}, "policy", "Choose one of"),
        ({"text": "refuse"}, "policy.threshold.tau", "Give a number in"),
        ({"text": "a", "temperature": 1}, "temperature", "not permitted"),
        ({"text": "a", "sampling": {"temperature": "1"}}, "sampling.temperature", "number"),
        ({"text": "a", "sampling": {"logit_bias": {"x": 1}}}, "sampling.logit_bias.x", "pattern"),
        ({"text": "a", "sampling": {"logit_bias": {"9999999999": 1}}}, "sampling", "cannot be sent"),
        ({"text": "a", "max_new_tokens": -1}, "max_new_tokens", "greater than or equal to 0"),
        ({"text": "a", "tools": [{"name": "f"}]}, "tools", "Give chat"),
        ({"tokens": [2**32]}, "tokens[0]", "less than"),
        ({"attach": {"session_id": "s"}, "text": "a"}, "text", "Send attach alone"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(body: Any, param: str, says: str, http: httpx2.Client) -> None:
    response = http.post(GENERATE, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert says in error["message"]


def test_an_answer_that_exists_is_read_from_any_token(router: FakeRouter, http: httpx2.Client) -> None:
    whole = events(http.post(GENERATE, json={"text": "What?", "session_id": "s"}))
    rest = events(http.post(GENERATE, json={"attach": {"session_id": "s", "resume_from": 30}}))
    assert rest[0]["position"] == 30

    def tokens(found: list[Any]) -> list[int]:
        return [token for event in found if event["event"] == "chunk" for token in event["tokens"]]

    assert tokens(rest) == [token for token in tokens(whole) if token >= 130]
    missing = http.post(GENERATE, json={"attach": {"session_id": "nobody"}})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "UNKNOWN_SESSION")


def test_what_fails_on_the_way_ends_with_an_error(router: FakeRouter, http: httpx2.Client) -> None:
    def fails(number: int) -> None:
        if len(router.questions) == 1 and number % 100 > 20:
            raise RstitchError(grpc.StatusCode.CANCELLED, "CANCELLED", "the answer was cancelled.")

    router._count = iter(range(10**6))  # type: ignore[assignment]
    router.before_event = fails
    found = events(http.post(GENERATE, json={"text": "What?", "session_id": "s"}))
    assert found[0]["event"] == "started"
    error = found[-1]["error"]
    assert (error["code"], error["type"]) == ("CANCELLED", "conflict_error")
    assert error["rstitch"]["session_id"] == "s"
    assert "attach" in error["message"]


def test_a_silent_stream_is_kept_alive(router: FakeRouter, http: httpx2.Client) -> None:
    seen = threading.Event()
    router._count = iter(range(10**6))  # type: ignore[assignment]
    router.before_event = lambda number: None if number < 5 else (seen.wait(30), None)[1]
    with http.stream("POST", GENERATE, json={"text": "What?"}) as response:
        for line in response.iter_lines():
            if line.startswith(":"):
                seen.set()
    assert seen.is_set()


def test_trajectories_are_listed_shown_labelled_and_forgotten(router: FakeRouter, http: httpx2.Client) -> None:
    for name in "abc":
        http.post(GENERATE, json={"text": "What?", "session_id": name})
    first = http.get(TRAJECTORIES, params={"page_size": 2}).json()
    assert [each["session_id"] for each in first["trajectories"]] == ["a", "b"]
    last = http.get(TRAJECTORIES, params={"page_size": 2, "page_token": first["next_page_token"]}).json()
    assert [each["session_id"] for each in last["trajectories"]] == ["c"]
    assert last["next_page_token"] == ""
    assert http.get(f"{TRAJECTORIES}/b").json() == printed(router, "trajectory", "show", "b")[0]
    for right, labelled in ((True, ["b"]), (False, ["b"]), (None, [])):
        assert http.post(f"{TRAJECTORIES}/b/label", json={"right": right}).status_code == 204
        found = http.get(TRAJECTORIES, params={"labelled": True}).json()["trajectories"]
        assert [each["session_id"] for each in found] == labelled
    assert http.delete(f"{TRAJECTORIES}/b").status_code == 204
    gone = http.get(f"{TRAJECTORIES}/b")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "UNKNOWN_SESSION")
    assert http.post(f"{TRAJECTORIES}/c/label", json={}).json()["error"]["param"] == "right"
    assert http.get(TRAJECTORIES, params={"page_size": 1001}).status_code == 400


def test_an_answer_is_cancelled_but_not_by_another_hosts_page(
    router: FakeRouter, scripted: str, http: httpx2.Client
) -> None:
    path = f"{TRAJECTORIES}/s/cancel"
    assert http.post(path).json() == {"cancelled": True, "state": "interrupted", "length": 9}
    assert http.post(path, headers={"origin": scripted}).status_code == 200
    # With JSON a browser asks first whether it may.
    assert http.post(path, json={}, headers={"origin": "https://elsewhere.example"}).status_code == 200
    assert router.cancelled == ["s"] * 3
    for origin in ("https://elsewhere.example", "null"):
        refused = http.post(path, headers={"origin": origin})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "CROSS_ORIGIN")
    assert router.cancelled == ["s"] * 3


def test_states_and_profiles_are_those_of_the_command_line(router: FakeRouter, http: httpx2.Client) -> None:
    spec = parse("threshold:tau=0.25+budget:llm_tokens=3")
    with Client(router.address) as client:
        client.put_profile(KeptProfile("fast", Threshold(0.25), budget=spec.budget, description="found"))
    found = http.get("/v1/rstitch/profiles").json()["profiles"]
    assert found == printed(router, "profiles", "ls")
    assert (found[0]["name"], found[0]["policy"]) == ("fast", "threshold:tau=0.25+budget:llm_tokens=3")
    assert http.get("/v1/rstitch/status").json() == printed(router, "health")[0]


def test_a_real_answer_is_what_is_kept_of_it(tiny_stack: LocalStack, real: str) -> None:
    question: dict[str, Any] = {"chat": [{"role": "user", "content": QUESTION}]}
    question["details"] = {"top_logprobs": 2}
    with httpx2.Client(base_url=real, timeout=60) as http:
        found = events(http.post(GENERATE, json=question | {"policy": "threshold:tau=0.05", "guard": False}))
        kept = http.get(f"{TRAJECTORIES}/{found[0]['session_id']}", params={"details": True}).json()
    chunks = [event for event in found if event["event"] == "chunk"]
    answer = [segment for segment in kept["segments"] if segment["source"] != "prompt"]
    for name in ("tokens", "entropies", "details"):
        assert [each for chunk in chunks for each in chunk[name]] == [each for part in answer for each in part[name]]
    assert "".join(chunk["text"] for chunk in chunks) == "".join(part["text"] for part in answer)
    details = [each for chunk in chunks for each in chunk["details"]]
    assert {len(each["alternatives"]) for each in details} == {2}
    assert {chunk["model"] for chunk in chunks} == {"slm", "llm"}
    assert kept["finished"]["usage"] == found[-1]["usage"]
    assert kept["state"] == "finished"
    assert kept["policy"] == kept["finished"]["policy"] == found[-1]["policy"]
    assert kept["policy"].startswith("threshold:tau=0.05")
