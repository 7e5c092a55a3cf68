"""A conversation of the client's as the contract has it: its messages, and what goes with them to the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2

from rstitch.client import types as t
from rstitch.v1 import router_pb2

# The library writes no more than a hundred levels of messages, and each of JSON takes three.
_MAX_DEPTH = 30
# What templates know of a message beside its text; a mapping may name them directly.
_FIELDS = ("tool_calls", "tool_call_id", "name", "reasoning_content")


def chat_message(given: t.Message | Mapping[str, Any]) -> router_pb2.ChatMessage:
    """Writes one message. Raises: TypeError or ValueError for what is none."""
    if isinstance(given, t.Message):
        fields = struct(given.fields) if given.fields else None
        return router_pb2.ChatMessage(role=given.role, content=given.content, text_parts=given.parts, fields=fields)
    plain = dict(given)
    more = {**(plain.pop("fields", None) or {}), **{name: plain.pop(name) for name in _FIELDS if name in plain}}
    parts, content = plain.pop("parts", ()), plain.pop("content", "")
    if not isinstance(content, str):
        parts, content = (*parts, *_texts(content or ())), ""
    message = t.Message(plain.pop("role", ""), content, tuple(parts), more)
    if plain:
        raise ValueError(f"a message has no {next(iter(plain))!r}")
    return chat_message(message)


def structs(given: Iterable[Mapping[str, Any]]) -> list[struct_pb2.Struct]:
    """Writes tools or documents. Raises: TypeError or ValueError where one is no object of JSON."""
    if isinstance(given, Mapping):
        raise TypeError("it is one object and not a list of them")
    return [struct(one) for one in given]


def struct(given: Mapping[str, Any]) -> struct_pb2.Struct:
    """Writes an object of JSON. Raises: TypeError or ValueError where it is none."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{given!r} is no object of JSON")
    if _is_deep(given, _MAX_DEPTH):
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
    made = struct_pb2.Struct()
    made.update(dict(given))
    return made


def _is_deep(given: Any, left: int) -> bool:
    inner = given.values() if isinstance(given, Mapping) else given if isinstance(given, list | tuple) else ()
    return any(left == 0 or _is_deep(each, left - 1) for each in inner if isinstance(each, Mapping | list | tuple))


def _texts(parts: Sequence[str | Mapping[str, Any]]) -> list[str]:
    """The texts of a content in parts, as OpenAI's chat completions have them."""
    made = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            raise ValueError(f"{part!r} is no part with a text")
        made.append(text)
    return made
