"""Texts and chats into a model's token ids, and ids into text, for whoever wants to see or count them.

A text is bounded as a question's is and read off the event loop; no key's quota counts it, but questions never wait
for it: only so many are read at once, whoever sends them.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from router_svc.answers.plain import check_plain
from router_svc.answers.preparation import Preparation
from router_svc.answers.prompts import check_size, first_prompt_of
from router_svc.answers.request import Chat, Text
from router_svc.trajectory.types import Model

_BYTES_OF_ID = 4


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Tokens of one model, the bytes of each, and the most tokens that the model reads."""

    tokens: array[int]
    texts: list[bytes]
    context_length: int


async def tokenize(preparation: Preparation, asked: Text | Chat, model: Model, num_bytes: int) -> Tokenized:
    """Makes what would be the prompt of a new session, by the model's own tokenizer and template. Raises RstitchError.

    `num_bytes` says about how long the text is.
    """
    preparation.fleet.check_ready()
    vocabularies, most = preparation.fleet.vocabularies, preparation.fleet.context_lengths()

    def make() -> Tokenized:
        if preparation.settings.special_tokens_in_text == "refuse":
            check_plain(asked, vocabularies)
        tokens = first_prompt_of(asked, model, vocabularies, most)
        return Tokenized(tokens, [*map(vocabularies.tokenizer(model).bytes_of, tokens)], most[model])

    return await preparation.apart.make_aside(make, num_bytes)


async def detokenize(preparation: Preparation, ids: array[int], model: Model) -> str:
    """Returns the text of a model's ids, special tokens spelled out. Raises RstitchError."""
    preparation.fleet.check_ready()
    vocabularies = preparation.fleet.vocabularies
    check_size(len(ids), {model: preparation.fleet.context_lengths()[model]})
    vocabularies.check_ids("tokens", ids, model)
    tokenizer = vocabularies.tokenizer(model)
    return await preparation.apart.make_aside(lambda: tokenizer.spelled(ids), _BYTES_OF_ID * len(ids))
