"""Text in, token ids out, from the files that a worker sends: the router needs no model files and no transformers.

Chat templates are `template`'s, conversations `conversation`'s. It does not turn tokens into text while they come:
`detokenizer` does.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tokenizers import Tokenizer as HfTokenizer

from router_svc.policies.early_exit import ExitStyle
from router_svc.text.template import ChatTemplate
from router_svc.text.turns import Message, Turn
from router_svc.trajectory.types import tokens_of
from rstitch.errors import RstitchError

# A piece of text that more tokens contain marks nothing, and each run of an answer sends all their ids to the worker.
_MAX_CONTAINING = 8192
# Pieces of text whose tokens are remembered: to look one up goes through the whole vocabulary.
_MAX_REMEMBERED = 64


class TooCommon(ValueError):
    """More tokens contain a piece of text than an answer may name: `num` of them."""

    def __init__(self, num: int) -> None:
        super().__init__(f"it is in {num} tokens")
        self.num = num


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a worker's GetTokenizer sends."""

    data: bytes  # content of tokenizer.json
    chat_template: str = ""  # Jinja; empty if the model has none
    special_tokens: Mapping[str, str] = field(
        default_factory=dict
    )  # texts of bos_token and so on, as templates use them
    named_templates: Mapping[str, str] = field(default_factory=dict)  # beside the default, such as tool_use
    early_exit: ExitStyle = field(default_factory=ExitStyle)  # how the model's folder says that it answers early


class Tokenizer:
    """The pair's tokenizer and chat template. Raises RstitchError (BAD_TOKENIZER) if the files make none.

    Attributes:
        template: the model's chat templates.
        exit_style: how the models' folders say that they answer early.
        containing: returns the tokens whose text contains a piece of text. Raises TooCommon. Slow the first time.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        try:
            self._tokenizer: Any = HfTokenizer.from_str(files.data.decode("utf-8"))
            self.template = ChatTemplate(files.chat_template, files.named_templates, files.special_tokens)
        except Exception as error:
            raise RstitchError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "BAD_TOKENIZER",
                f"its tokenizer cannot be read: {error}",
                remedy="Give the worker a model folder whose tokenizer.json and chat template are sound.",
            ) from error
        # A tokenizer's file may ask for both, for training; here every token of the text counts, and no other.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = dict(files.special_tokens)
        self._data = files.data
        self.exit_style = files.early_exit
        self.containing = functools.lru_cache(_MAX_REMEMBERED)(self._containing)

    def encode(self, text: str, *, begins: bool) -> array[int]:
        """Tokens of raw text; where it `begins` a session, with those that the tokenizer puts first, such as BOS."""
        return tokens_of(self._tokenizer.encode(text, add_special_tokens=begins).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special tokens; U+FFFD where bytes are no characters."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def spelled(self, tokens: Sequence[int]) -> str:
        """Text of tokens with the special ones spelled out, such as the mark that ends the thinking."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False)
        return text

    def spelling(self, token: int) -> str | None:
        """The token as the vocabulary writes it (a space may be another character there); None beyond its end."""
        text: str | None = self._tokenizer.id_to_token(token)
        return text

    def token(self, spelling: str) -> int | None:
        """The id of a token as the vocabulary writes it; None if there is none."""
        found: int | None = self._tokenizer.token_to_id(spelling)
        return found

    def size(self) -> int:
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    @functools.cached_property
    def _texts(self) -> list[str]:
        """Text that each token of the vocabulary has by itself, by token id."""
        tokens = [[token] for token in range(self.size())]
        texts: list[str] = self._tokenizer.decode_batch(tokens, skip_special_tokens=False)
        return texts

    def _containing(self, text: str) -> frozenset[int]:
        found = [token for token, own in enumerate(self._texts) if text in own]
        if len(found) > _MAX_CONTAINING:
            raise TooCommon(len(found))
        return frozenset(found)

    def chat(self, messages: Sequence[Message]) -> array[int]:
        """Tokens of a whole conversation, up to where the assistant speaks. Raises RstitchError (field `chat`)."""
        return self.encode_rendered(self.template.render(messages, Turn()), begins=True)

    def encode_rendered(self, text: str, *, begins: bool) -> array[int]:
        """Tokens of what a template rendered: it writes the special tokens itself."""
        return tokens_of(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def added_tokens(self) -> dict[str, int]:
        """Ids of added tokens by their text, special or not; some of them may be entries as well."""
        return {token.content: number for number, token in self._tokenizer.get_added_tokens_decoder().items()}

    def eos_token(self) -> int | None:
        eos: int | None = self._tokenizer.token_to_id(self._special.get("eos_token", ""))
        return eos

    def algorithm(self) -> tuple[object, ...]:
        """What tells how entries spell text: equal for two tokenizers whose equal entries stand for equal text."""
        model, decoder = self._tokenizer.model, self._tokenizer.decoder
        marks = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        is_byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        return (type(model).__name__, is_byte_level, *(getattr(model, mark, None) or None for mark in marks))

    def model_from(self, key: str) -> bytes:
        """The file from the value of its model's `key` on, unread; empty if there is no such key."""
        # A quote inside of a string is escaped, so this is no text of a token.
        return self._data.partition(f'"{key}":'.encode())[2]
