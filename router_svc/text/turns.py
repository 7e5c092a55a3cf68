"""The values of a conversation: its messages, and its turns with what they were asked with and answered.

They know no tokenizer and no template; a turn without its answer goes into JSON and back, as it is stored.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; which roles there are is up to the model's template."""

    role: str
    content: str = ""
    parts: tuple[str, ...] = ()  # the text in parts, in place of `content`
    fields: Mapping[str, Any] = field(default_factory=dict)  # what else templates know of one, such as tool_calls

    @property
    def has_text(self) -> bool:
        return bool(self.content) or any(self.parts)

    def continued(self, text: str, *, trimmed: bool) -> Message:
        """The message with `text` behind its own, of which white space at its end is left out where `trimmed`."""
        if self.parts:
            *others, last = self.parts
            return replace(self, parts=(*others, (last.rstrip() if trimmed else last) + text))
        return replace(self, content=(self.content.rstrip() if trimmed else self.content) + text)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as one model reads it."""

    tokens: array[int]  # in the model's own ids
    text: str  # special tokens spelled out, without the stop token at its end
    ended: bool  # whether the last token is a stop token


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn was asked with and, once it is over, its answer. Without messages: raw text or tokens."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    documents: tuple[Mapping[str, Any], ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # further variables of the template
    answer: Answered | None = None

    @property
    def is_raw(self) -> bool:
        return not self.messages

    @property
    def continues(self) -> bool:
        """Whether the answer goes on with the last message, which is the assistant's own."""
        return bool(self.messages) and self.messages[-1].role == ASSISTANT

    def answered(self, answer: Answered) -> Turn:
        return replace(self, answer=answer)

    def to_json(self) -> str:
        """All but the answer; what is empty is left out, so that a raw turn is `{}`."""
        messages = [_without_empty(_plain(message)) for message in self.messages]
        whole = {"messages": messages, "tools": self.tools, "documents": self.documents, "kwargs": self.kwargs}
        return json.dumps(_without_empty(whole), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Turn:
        """The turn that `to_json` made the text of; it has no answer."""
        given = json.loads(text)
        messages = tuple(
            Message(one["role"], one.get("content", ""), tuple(one.get("parts", ())), one.get("fields", {}))
            for one in given.get("messages", ())
        )
        tools, documents = tuple(given.get("tools", ())), tuple(given.get("documents", ()))
        return cls(messages, tools, documents, given.get("kwargs", {}))


def in_force(turns: Sequence[Turn]) -> Turn:
    """Tools, documents and variables that hold for the newest turn: its own, or where it has none an earlier one's."""
    newest = Turn()
    for turn in turns:
        newest = Turn(
            tools=turn.tools or newest.tools,
            documents=turn.documents or newest.documents,
            kwargs=turn.kwargs or newest.kwargs,
        )
    return newest


def _plain(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, "parts": message.parts, "fields": message.fields}


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
