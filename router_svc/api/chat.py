"""A chat of the contract as a turn, or a refusal that names the field and the remedy.

What comes as google.protobuf.Struct becomes plain JSON values. Two things are lost on the wire and are given back here:
whole numbers (all are doubles there), and the order of names (a map has none, and reads differently in each process).
Templates write tools out as JSON, so that the order has to be one and the same: the names of JSON schemas as
transformers has them (get_json_schema), a schema's properties as `required` names them, all others by the alphabet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2

from router_svc.text.turns import Message, Turn
from rstitch.errors import invalid
from rstitch.v1 import router_pb2

_MAX_MESSAGES = 4096
_MAX_TOOLS = 128
_MAX_DOCUMENTS = 1024
_MAX_KWARGS = 64
# JSON values and parts within one chat, read in tens of milliseconds, and how deep values lie in one another: more than
# people write. Deeper ones than about 30 do not arrive at all.
_MAX_VALUES = 30_000
_MAX_DEPTH = 20
# What transformers' apply_chat_template takes for itself.
_RESERVED = frozenset(
    {
        "messages",
        "conversation",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "sanitize_control_tokens",
        "tokenizer_kwargs",
    }
)
_HEAD = ("id", "type", "function", "name", "title", "items", "prefixItems", "nullable", "enum", "description")
_BODY = ("parameters", "properties", "additionalProperties", "required", "return")
_RANK = {name: rank for rank, name in enumerate((*_HEAD, *_BODY))}


def parse_turn(chat: router_pb2.Chat) -> Turn:
    """The turn that a chat asks. Raises RstitchError."""
    _check_number("chat.messages", len(chat.messages), _MAX_MESSAGES)
    reader = _Reader()
    messages = tuple(
        _parse_message(f"chat.messages[{index}]", message, reader) for index, message in enumerate(chat.messages)
    )
    if not any(message.has_text or message.fields for message in messages):
        raise invalid("chat.messages", "the prompt is empty.", "Send at least one message with content.")
    kwargs = reader.values("chat.chat_template_kwargs", chat.chat_template_kwargs)
    _check_number("chat.chat_template_kwargs", len(kwargs), _MAX_KWARGS)
    for name in kwargs:
        _check_variable(name)
    return Turn(
        messages,
        tools=_structs("chat.tools", chat.tools, _MAX_TOOLS, reader),
        documents=_structs("chat.documents", chat.documents, _MAX_DOCUMENTS, reader),
        kwargs=kwargs,
    )


def chat_size(chat: router_pb2.Chat) -> int:
    """About how many bytes a chat has."""
    texts = sum(len(message.content) + sum(map(len, message.text_parts)) for message in chat.messages)
    structs = [*chat.tools, *chat.documents, chat.chat_template_kwargs]
    structs += [message.fields for message in chat.messages if message.HasField("fields")]
    return texts + sum(struct.ByteSize() for struct in structs)


def _parse_message(field: str, message: router_pb2.ChatMessage, reader: _Reader) -> Message:
    if not message.role:
        raise invalid(f"{field}.role", "it is empty.", "Use system, user or assistant.")
    if message.content and message.text_parts:
        raise invalid(f"{field}.text_parts", "there is content, too.", "Send the text in one of the two.")
    reader.count(f"{field}.text_parts", len(message.text_parts))
    fields = reader.values(f"{field}.fields", message.fields)
    for name in ("role", "content"):
        if name in fields:
            raise invalid(f"{field}.fields.{name}", "the message has a field for it.", f"Send it as {field}.{name}.")
    return Message(message.role, message.content, tuple(message.text_parts), fields)


def _check_variable(name: str) -> None:
    field = f"chat.chat_template_kwargs.{name[:80]}"
    if name in _RESERVED:
        raise invalid(
            field, "it is no variable of the template.", "Leave it out; messages, tools and documents are fields."
        )
    if not name.isidentifier():
        raise invalid(field, "it is no name of a variable.", "Use letters, digits and _.")


def _structs(field: str, given: Sequence[struct_pb2.Struct], most: int, reader: _Reader) -> tuple[dict[str, Any], ...]:
    _check_number(field, len(given), most)
    made = tuple(reader.values(f"{field}[{index}]", one) for index, one in enumerate(given))
    for index, one in enumerate(made):
        if not one:
            raise invalid(f"{field}[{index}]", "it is empty.", "Leave it out.")
    return made


def _check_number(field: str, num: int, most: int) -> None:
    if num > most:
        raise invalid(field, f"{num} are too many.", f"Send at most {most}.")


class _Reader:
    """Reads what is of JSON in one chat, and counts it."""

    def __init__(self) -> None:
        self._field = ""
        self._num_values = 0

    def values(self, field: str, given: struct_pb2.Struct) -> dict[str, Any]:
        self._field = field
        return self._object(given, 0)

    def count(self, field: str, num: int) -> None:
        """Raises RstitchError where the chat has too much with `num` values more."""
        self._num_values += num
        if self._num_values > _MAX_VALUES:
            raise invalid(field, f"the chat has more than {_MAX_VALUES} values up to here.", "Send fewer.")

    def _object(self, given: struct_pb2.Struct, depth: int) -> dict[str, Any]:
        made = {name: self._value(value, depth + 1) for name, value in given.fields.items()}
        named = {name: made[name] for name in sorted(made, key=_place)}
        properties, required = named.get("properties"), named.get("required")
        if isinstance(properties, dict) and isinstance(required, list):
            named["properties"] = _in_order(properties, required)
        return named

    def _value(self, given: struct_pb2.Value, depth: int) -> Any:
        self.count(self._field, 1)
        if depth > _MAX_DEPTH:
            raise invalid(
                self._field, f"its values lie more than {_MAX_DEPTH} deep in one another.", "Send flatter ones."
            )
        match given.WhichOneof("kind"):
            case "struct_value":
                return self._object(given.struct_value, depth)
            case "list_value":
                return [self._value(one, depth + 1) for one in given.list_value.values]
            case "number_value":
                return self._number(given.number_value)
            case "string_value":
                return given.string_value
            case "bool_value":
                return given.bool_value
        return None

    def _number(self, value: float) -> int | float:
        if not math.isfinite(value):
            raise invalid(self._field, f"{value} is no number of JSON.", "Send a finite one.")
        return int(value) if value.is_integer() else value


def _place(name: str) -> tuple[int, str]:
    return _RANK.get(name, len(_RANK)), name


def _in_order(values: Mapping[str, Any], first: Iterable[Any]) -> dict[str, Any]:
    names = [name for name in dict.fromkeys(filter(_is_text, first)) if name in values]
    return {name: values[name] for name in [*names, *sorted(values.keys() - set(names))]}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
