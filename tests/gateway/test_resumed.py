"""A stream that was lost goes on where it was, by `Last-Event-ID`: at any event, at any gateway, with nothing twice."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from rstitch.client import Client, Source
from rstitch.local.stack import LocalStack
from tests.support.gateways import chat, process, started

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Event(NamedTuple):
    id: str
    data: Any  # JSON, or "[DONE]"


def events_in(text: str) -> list[Event]:
    """Reads the events that came whole: behind the last one the stream may have been cut off."""
    found = []
    for block in text.split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if data := lines.get("data"):
            found.append(Event(lines.get("id", ""), data if data == "[DONE]" else json.loads(data)))
    return found


def ask(client: httpx2.Client, path: str, body: dict[str, Any], key: str, last_id: str = "") -> list[Event]:
    shown = {"idempotency-key": key} | ({"last-event-id": last_id} if last_id else {})
    response = client.post(path, json=body | {"stream": True}, headers=shown)
    assert response.status_code == 200, response.text
    return events_in(response.text)


def told(events: Sequence[Event]) -> dict[Any, Any]:
    """What a client has in the end: the pieces, each list and text of a choice in one."""
    found: dict[Any, Any] = defaultdict(str)
    for event in events:
        if event.data == "[DONE]":
            found["done"] += "."
            continue
        assert "error" not in event.data, event.data
        if usage := event.data.get("usage"):
            found["usage"] += json.dumps(usage)
        for choice in event.data["choices"]:
            pieces = {**choice.get("delta", {}), "text": choice.get("text", "")}
            pieces |= {name: choice[name] for name in ("finish_reason",) if choice[name]}
            for name, piece in pieces.items():
                found[choice["index"], name] += piece
            found[choice["index"], "opened"] += "." if "role" in choice.get("delta", {}) else ""
            for name, values in (choice["logprobs"] or {}).items():
                found[choice["index"], "logprobs", name] += "".join(f"{json.dumps(value)}\n" for value in values or ())
    return dict(found)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(max_tokens=30, stream_options={"include_usage": True})),
        (CHAT, chat(max_tokens=16, logprobs=True, top_logprobs=2, separate_reasoning=False)),
        (CHAT, chat(max_tokens=12, n=2, temperature=0.9, seed=3, logprobs=True)),
        (TEXT, {"model": "rstitch", "prompt": ["2+2=", "7*6="], "max_tokens": 12, "logprobs": 1}),
        (TEXT, {"model": "rstitch", "prompt": "2+2=", "max_tokens": 12, "echo": True}),
    ],
    ids=["chat", "chat with tokens", "two choices", "two prompts", "with an echo"],
)
def test_behind_any_event_the_rest_comes_and_nothing_twice(
    http: httpx2.Client, path: str, body: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    key = request.node.callspec.id
    whole = ask(http, path, body, key)
    assert whole[-1].data == "[DONE]"
    assert all(event.id for event in whole[:-1])
    expected = told(whole)
    for cut, last in enumerate(whole[:-1], start=1):
        assert told([*whole[:cut], *ask(http, path, body, key, last.id)]) == expected, last
    # A stream that goes on has ids, too, of the same places.
    middle = whole[len(whole) // 2].id
    for again in ask(http, path, body, key, middle)[:-1]:
        rest = ask(http, path, body, key, again.id)
        assert rest[-1].data == "[DONE]"
        assert len(rest) < len(whole)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "hidden"])
def test_what_is_cut_within_a_thinking_is_parted_the_same(http: httpx2.Client, shown: bool) -> None:
    """The mark that ends the thinking is passed over with it, though it comes in one piece with what follows."""
    body = chat(max_tokens=200, stream_options={"include_usage": True}, logprobs=True, include_reasoning=shown)
    whole = ask(http, CHAT, body, f"thinking-{shown}")
    expected = told(whole)
    assert expected[0, "content"]
    assert ((0, "reasoning") in expected) is shown
    assert json.loads(expected["usage"])["completion_tokens_details"]["reasoning_tokens"] > 0
    lost = [event for event in whole if event.data != "[DONE]"][1::7]
    for last in lost:
        cut = whole.index(last) + 1
        assert told([*whole[:cut], *ask(http, CHAT, body, f"thinking-{shown}", last.id)]) == expected


def test_a_killed_gateways_streams_go_on_at_another(tiny_stack: LocalStack, tmp_path: Path) -> None:
    body = chat(max_tokens=400, separate_reasoning=False) | {"stream": True}
    (other := tmp_path / "other").mkdir()
    router, text = tiny_stack.router_address, ""
    with started(router, other) as second, process(router, tmp_path) as (first, client):
        with client.stream("POST", CHAT, json=body, headers={"idempotency-key": "killed"}) as response:
            pieces = response.iter_text()
            while len(events_in(text)) < 4:
                text += next(pieces)
            first.kill()
            with suppress(httpx2.HTTPError):  # what was sent before comes before that it was cut off
                text += "".join(pieces)
        had = events_in(text)
        assert had[-1].data != "[DONE]"
        rest = ask(second, CHAT, body, "killed", had[-1].id)
        whole = told(ask(second, CHAT, body, "not killed"))
    assert told([*had, *rest]) == whole


@pytest.mark.parametrize(
    ("last_id", "shown", "what"),
    [
        ("1.0.0.0", {}, "Idempotency-Key"),
        ("7", {"idempotency-key": "bad"}, "no event"),
        ("3.0.0.0", {"idempotency-key": "bad"}, "no event"),
        ("1.0.0.0-1.0.0.0", {"idempotency-key": "bad"}, "no event"),
        ("1.0.0." + "9" * 40, {"idempotency-key": "bad"}, "no event"),
        ("1.0.0.٣", {"idempotency-key": "bad"}, "no event"),
    ],
)
def test_what_is_no_id_is_refused_before_anybody_is_asked(
    http: httpx2.Client, last_id: str, shown: dict[str, str], what: str
) -> None:
    response = http.post(
        CHAT, json=chat(stream=True, max_tokens=1), headers={**shown, "last-event-id": last_id.encode()}
    )
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "Last-Event-ID"
    assert what in error["message"]


def test_no_other_answer_is_taken_for_the_one_that_was_lost(http: httpx2.Client, tiny_stack: LocalStack) -> None:
    """Not one to another request, not one that was forgotten, not the next one of its session; and nothing is asked."""
    body = chat(max_tokens=8, stream=True)

    def refused(asked: dict[str, Any], key: str, **shown: str) -> tuple[int, str]:
        response = http.post(CHAT, json=asked, headers={"idempotency-key": key, "last-event-id": "1.0.1.0", **shown})
        return response.status_code, response.json()["error"]["code"]

    with Client(tiny_stack.router_address) as client:
        ask(http, CHAT, body, "lost")
        assert refused(body | {"max_tokens": 9}, "lost")[0] == 404
        assert refused(body, "never seen")[0] == 404
        now = datetime.now(UTC) - timedelta(milliseconds=1)  # Redis has no less
        asked = http.post(CHAT, json=body, headers={"idempotency-key": "never seen"})
        assert client.trajectory(asked.headers["x-session-id"]).created >= now, "it was asked before"
        session = {"x-session-id": "two-turns"}
        for key in ("first turn", "second turn"):
            http.post(CHAT, json=body, headers={"idempotency-key": key, **session})
        assert refused(body, "first turn", **session) == (409, "ANSWER_OVER")
        sources = [segment.source for segment in client.trajectory("two-turns").segments]
    assert sources.count(Source.PROMPT) == 2


def test_so_many_choices_that_no_header_would_hold_them_have_no_ids(http: httpx2.Client) -> None:
    body = {"model": "rstitch", "prompt": ["2+2="] * 33, "max_tokens": 1, "stream": True}
    response = http.post(TEXT, json=body, headers={"idempotency-key": "many"})
    assert not any(event.id for event in events_in(response.text))
    refused = http.post(TEXT, json=body, headers={"idempotency-key": "many", "last-event-id": "1.0.0.0"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Last-Event-ID")
    assert "32" in refused.json()["error"]["message"]


def test_whoever_has_no_key_gets_no_ids(http: httpx2.Client) -> None:
    """They would be of no use."""
    text = http.post(CHAT, json=chat(stream=True, max_tokens=4)).text
    assert "id: " not in "".join(itertools.filterfalse(lambda line: line.startswith("data: "), text.split("\n")))
