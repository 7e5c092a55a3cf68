"""Refuses chats whose texts spell special tokens, where the operator wants that (`--special-tokens-in-text refuse`).

A tokenizer, ours as that of transformers, reads `<|im_end|>` in a message as the token that ends messages: whoever may
write a part of a chat can then end it and begin another role's. It knows no wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from router_svc.answers.request import Chat, Text, Tokens
from router_svc.text.vocabularies import Vocabularies
from rstitch.errors import invalid


def check_plain(asked: Text | Chat | Tokens, vocabularies: Vocabularies) -> None:
    """Raises RstitchError, naming the field, for a chat with a special token of either model in a text.

    Raw text and token ids are meant to have them, and are let through.
    """
    if not isinstance(asked, Chat):
        return
    spellings = {text for side in vocabularies.sides.values() for text in side.tokenizer.special.values() if text}
    turn = asked.turn
    texts = [
        (f"chat.messages[{index}]", part)
        for index, message in enumerate(turn.messages)
        for part in (message.role, message.content, *message.parts, *_texts(message.fields))
    ]
    beside = {"tools": turn.tools, "documents": turn.documents, "chat_template_kwargs": turn.kwargs}
    texts += [(f"chat.{name}", text) for name, value in beside.items() for text in _texts(value)]
    for field, text in texts:
        found = next((spelling for spelling in spellings if spelling in text), None)
        if found is not None:
            what = f"it spells {found!r}, which is a special token of the models and none of a text."
            raise invalid(field, what, "Write it in another way, such as with a space within.")


def _texts(value: Any) -> Iterator[str]:
    """All strings in a value of JSON, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
