"""What chats have in common with their next turns, and with nobody else's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router_svc.answers.request import Chat, Question, Text, Tokens
from router_svc.policies.kinds import SlmOnly
from router_svc.text.turns import Message, Turn
from router_svc.trajectory.types import Sampling, tokens_of

_SAID = (Message("system", "Be brief."), Message("user", "What is 2 + 2?"))
_ASKED = Question("acme", "", Chat(Turn(_SAID)), SlmOnly(), Sampling(), 8, ())


def of(*messages: Message, **more: Any) -> Question:
    return replace(_ASKED, input=Chat(Turn(messages, **more)))


def test_later_turns_begin_as_the_first() -> None:
    later = (*_SAID, Message("assistant", "4"), Message("user", "And 3 + 3?"))
    assert of(*later).beginning() == _ASKED.beginning() == replace(_ASKED, session_id="s", max_new_tokens=9).beginning()


@pytest.mark.parametrize(
    "other",
    [
        replace(_ASKED, tenant="other"),
        replace(_ASKED, tenant=""),
        replace(_ASKED, cache_salt="a"),
        of(Message("system", "Be long."), _SAID[1]),
        of(_SAID[0], Message("user", "What is 2 + 3?")),
        of(_SAID[1]),
        of(*_SAID, tools=({"name": "add"},)),
        of(*_SAID, kwargs={"enable_thinking": True}),
    ],
)
def test_what_shares_nothing_begins_otherwise(other: Question) -> None:
    assert other.beginning() not in (_ASKED.beginning(), "")


def test_what_is_no_chat_has_no_beginning() -> None:
    assert replace(_ASKED, input=Text("a")).beginning() == ""
    assert replace(_ASKED, input=Tokens(tokens_of([1]))).beginning() == ""


def test_a_chat_without_a_question_begins_with_all_of_it() -> None:
    assert of(_SAID[0]).beginning() != of(_SAID[0], Message("system", "And more.")).beginning()
