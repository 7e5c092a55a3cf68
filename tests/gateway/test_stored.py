"""Completions that were stored are the caller's trajectories, listed by pages, told and forgotten."""

from __future__ import annotations

import httpx2

from rstitch.client import Client
from rstitch.local.stack import LocalStack
from tests.support.gateways import chat, until


def test_what_was_answered_can_be_fetched_again(http: httpx2.Client) -> None:
    made = http.post("/v1/chat/completions", json=chat()).json()
    again = http.get(f"/v1/chat/completions/{made['id']}").json()
    assert again["choices"][0]["message"] == made["choices"][0]["message"]
    assert again["choices"][0]["finish_reason"] == "stop"
    assert again["usage"] == made["usage"]
    assert again["rstitch"]["state"] == "finished"


def test_lists_go_on_behind_the_last_id(http: httpx2.Client) -> None:
    ids = [http.post("/v1/chat/completions", json=chat(max_tokens=1)).json()["id"] for _ in range(3)]
    first = http.get("/v1/chat/completions", params={"limit": 2}).json()
    assert [one["id"] for one in first["data"]] == ids[:0:-1]
    assert first["has_more"]
    then = http.get("/v1/chat/completions", params={"limit": 1, "after": first["last_id"]}).json()
    assert [one["id"] for one in then["data"]] == [ids[0]]
    assert http.get("/v1/chat/completions", params={"after": "nobody"}).json()["error"]["param"] == "after"
    assert http.get("/v1/chat/completions", params={"limit": 0}).json()["error"]["param"] == "limit"


def test_an_empty_page_has_texts_as_ids(http: httpx2.Client) -> None:
    http.post("/v1/chat/completions", json=chat(max_tokens=1))
    page = http.get("/v1/chat/completions", params={"limit": 100}).json()
    while page["has_more"]:
        page = http.get("/v1/chat/completions", params={"limit": 100, "after": page["last_id"]}).json()
    page = http.get("/v1/chat/completions", params={"after": page["last_id"]}).json()
    assert (page["data"], page["first_id"], page["last_id"], page["has_more"]) == ([], "", "", False)


def test_what_is_forgotten_is_gone(http: httpx2.Client, tiny_stack: LocalStack) -> None:
    made = http.post("/v1/chat/completions", json=chat(max_tokens=1)).json()
    assert http.delete(f"/v1/chat/completions/{made['id']}").json()["deleted"]
    for method in ("GET", "DELETE"):
        response = http.request(method, f"/v1/chat/completions/{made['id']}")
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "not_found_error"


def test_what_was_broken_off_is_told_as_far_as_it_is(http: httpx2.Client, tiny_stack: LocalStack) -> None:
    with Client(tiny_stack.router_address, timeout_s=60) as client:
        text = ""
        events = client.generate(chat=chat()["messages"], session_id="broken-off", on_disconnect="stop")
        for event in events:
            text += getattr(event, "text", "")
            if len(text) > 12:
                break
        events.close()  # type: ignore[attr-defined]
        until(lambda: client.trajectory("broken-off").state != "running")
    told = http.get("/v1/chat/completions/broken-off").json()
    assert told["rstitch"]["state"] == "interrupted"
    assert told["choices"][0]["finish_reason"] == "length"
    assert "rstitch" not in told["choices"][0]  # what it took is not known
    assert told["choices"][0]["message"]["reasoning"].startswith(text.removeprefix("<think>").lstrip("\n"))
