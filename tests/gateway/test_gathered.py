"""The router is asked for an answer in as few messages as can be, and a client sees no difference."""

from __future__ import annotations

import httpx2
import pytest

from tests.support.fake_router import FakeRouter
from tests.support.gateways import chat, events_of

CHAT = "/v1/chat/completions"


def test_only_what_is_told_as_a_whole_is_held_back(router: FakeRouter, plain: httpx2.Client) -> None:
    for stream in (True, False):
        plain.post(CHAT, json=chat(stream=stream)).raise_for_status()
    streamed, whole = router.questions
    assert (streamed.gather_ms, streamed.takes_more) == (0, True)
    assert (whole.gather_ms > 0, whole.takes_more) == (True, True)


@pytest.mark.parametrize("at_once", [3, 1000])
def test_events_of_one_message_are_one_chunk_each(router: FakeRouter, plain: httpx2.Client, at_once: int) -> None:
    def deltas() -> list[str]:
        events = events_of(plain.post(CHAT, json=chat(stream=True, separate_reasoning=False)))
        return [event["choices"][0]["delta"].get("content", "") for event in events if event != "[DONE]"]

    alone = deltas()
    router.at_once = at_once
    try:
        assert deltas() == alone
    finally:
        router.at_once = 1
    assert len(alone) > 5
