"""Messages of a chat as OpenAI writes them, as the router takes them; pictures and sound are refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import bad
from rstitch.client import Message

_ROLES = {name: name for name in ("system", "user", "assistant", "tool")} | {"developer": "system"}
# What a template may know of a message; the two spellings of the thinking are one.
_FIELDS = ("name", "tool_calls", "tool_call_id", "reasoning_content")
# What clients send back because they got it, and no template reads.
_IGNORED = frozenset({"refusal", "annotations", "audio", "function_call", "rstitch"})


def chat_of(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Makes the router's messages. Raises: ApiError naming the message at fault."""
    return [_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _message(where: str, given: Mapping[str, Any]) -> Message:
    role = given.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"{where}.role", f"there is no role {role!r:.100}.", f"Use one of {', '.join(_ROLES)}.")
    fields = {name: given[name] for name in _FIELDS if given.get(name) is not None}
    if "reasoning_content" not in fields and given.get("reasoning") is not None:
        fields["reasoning_content"] = given["reasoning"]
    for name in ("name", "tool_call_id", "reasoning_content"):
        if not isinstance(fields.get(name, ""), str):
            raise bad(f"{where}.{name}", "it is no text.", "Send a string.")
    for name in ("audio", "function_call"):
        if given.get(name):
            raise bad(f"{where}.{name}", "it is not supported.", "Leave it out.", "unsupported_value")
    known = {"role", "content", "reasoning", *_FIELDS, *_IGNORED}
    if unknown := sorted(set(given) - known):
        raise bad(f"{where}.{unknown[0]}", "nobody knows it.", "Leave it out.", "unknown_parameter")
    content = given.get("content")
    if content is None:
        if role == "assistant" and (fields or "refusal" in given):
            return Message("assistant", "", fields=fields or None)
        raise bad(f"{where}.content", "it is missing.", "Send a text, or a list of text parts.")
    if isinstance(content, str):
        return Message(_ROLES[role], content, fields=fields or None)
    if not isinstance(content, list):
        raise bad(f"{where}.content", "it is neither a text nor a list.", "Send a text, or a list of text parts.")
    if not content:
        raise bad(f"{where}.content", "it is an empty list.", "Send at least one text part.")
    parts = [_part(f"{where}.content[{index}]", part) for index, part in enumerate(content)]
    return Message(_ROLES[role], parts=parts, fields=fields or None)


def _part(where: str, part: Any) -> str:
    if isinstance(part, Mapping):
        kind = part.get("type")
        if kind in ("text", "refusal") and isinstance(text := part.get(kind), str):
            return text
        if kind not in ("text", "refusal"):
            what = f"parts of type {kind!r:.100} are not supported."
            raise bad(where, what, "Send text parts: these models read nothing else.", "unsupported_value")
    raise bad(where, "it is no text part.", 'Write {"type": "text", "text": "..."}.')
