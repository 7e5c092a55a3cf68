"""Text in, token ids out, from the files that a worker sends: the router needs no model files and no transformers.

Chat templates are `template`'s, conversations `conversation`'s. It does not turn tokens into text while they come:
`detokenizer` does.
"""

from __future__ import annotations

import copy
import functools
import sys
from array import array
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tokenizers import Tokenizer as HfTokenizer

from router_svc.policies.early_exit import ExitStyle
from router_svc.text.encoding import Encoder
from router_svc.text.template import ChatTemplate
from router_svc.text.token_bytes import spelled_bytes
from rstitch.errors import RstitchError

# A piece of text that more tokens contain marks nothing, and each run of an answer sends all their ids to the worker.
_MAX_CONTAINING = 8192
# Pieces of text whose tokens are remembered: to look one up goes through the whole vocabulary.
_MAX_REMEMBERED = 64
# Tokens whose text is remembered: a detokenizer asks for it after each token, and answers use the same few again.
_MAX_TEXTS = 16384
# Texts of which the tokens of one can stand before others, so that these do not begin a text.
_ANCHORS = ("a", "e", "0", ".", "x")
# Texts of the kinds that a tokenizer may not give back as they were.
_PROBES = (
    "The answer is 12.",
    " one  two   three ",
    "\n\n  indented\n\ttabbed\r\n",
    "naïve Façade ÀÉÎ",
    "e\u0301 a\u0308 \u1112\u1161\u11ab",
    "日本語と中文。 한국어 العربية",
    "x² ≤ ½ → \\boxed{12}",
    "👩\u200d👩\u200d👧 🏳️\u200d🌈!",
    "3.14159 + 1,000 = 12345",
    "def f(x):\n    return {'a': [x, *y]}  # <b> isn't [UNK] , is it ?",
)


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

    @property
    def has_template(self) -> bool:
        return bool(self.chat_template or self.named_templates)


class Tokenizer:
    """The pair's tokenizer and chat template. Raises RstitchError (BAD_TOKENIZER) if the files make none.

    Attributes:
        template: the model's chat templates.
        exit_style: how the models' folders say that they answer early.
        containing: returns the tokens whose text contains a piece of text. Raises TooCommon. Slow the first time.
        below: returns the tokenizer for a model with ids below a number: what spells an added token beyond them is text
            like any other where it goes on with other text.
        text_of: returns the text of a single token that begins a text, as `decode` does.
        bytes_of: returns the bytes that a token adds to a text that goes on, which may be a part of a character; those
            of a special token are its spelling, and an id without a token has none.
        special: by id, how the special tokens are spelled, which `decode` leaves out.
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
        self._encoder = Encoder(self._tokenizer)
        self.exit_style = files.early_exit
        self.containing = functools.lru_cache(_MAX_REMEMBERED)(self._containing)
        self.below = functools.lru_cache(1)(self._below)
        self.text_of = functools.lru_cache(_MAX_TEXTS)(lambda token: self.decode([token]))
        self.bytes_of = functools.lru_cache(_MAX_TEXTS)(self._bytes_of)
        added = self._tokenizer.get_added_tokens_decoder()
        self._added: dict[int, str] = {token: entry.content for token, entry in added.items()}
        self.special: Mapping[int, str] = {token: entry.content for token, entry in added.items() if entry.special}

    def encode(self, text: str, *, begins: bool, most: int = sys.maxsize) -> array[int]:
        """Tokens of raw text; special tokens that it spells become those tokens. Raises TooLong: more than `most`.

        Where it `begins` a session, it is tokenized as the tokenizer does it, with what that puts first, such as BOS or
        a space. Where not, it goes on with the text before as it is: nothing is put first, and if the vocabulary can
        spell every text, `spelled_answer` gives exactly this one back.
        """
        return self._encoder.whole(text, most) if begins else self._encoder.going_on(text, most)

    def encode_rendered(self, text: str, *, begins: bool, most: int = sys.maxsize) -> array[int]:
        """Tokens of what a template rendered: special tokens that it spells become those tokens, and none are added.

        With `begins` it is a whole conversation, tokenized as transformers does it; without, the end of one: its tokens
        are those that the whole has there. A text that goes on behind a special token is to begin with that token, as
        it may change what follows; the caller drops it again. Raises TooLong: more than `most`.
        """
        return self._encoder.rendered(text, most) if begins else self._encoder.end(text, most)

    def _below(self, size: int) -> Tokenizer:
        if all(token < size for token in self._added):
            return self
        made = copy.copy(self)
        made._encoder = Encoder(self._tokenizer, size)
        return made

    @property
    def splits_at_spaces(self) -> bool:
        """Whether text that goes on can be encoded in parts, cut before spaces between letters."""
        return self._encoder.as_is_splits

    @functools.cached_property
    def anchor(self) -> tuple[int, ...]:
        """A token with the text of a whole character, for others to come behind it; empty if there is none.

        Many decoders drop a space at the beginning of what they are given, and some take a run of tokens that are bytes
        for no characters at all if one byte of it is wrong: behind this token neither happens.
        """
        for text in _ANCHORS:
            tokens = self._encoded(text)
            if tokens is None:
                continue
            is_byte = len(tokens) == 1 and (self.spelling(tokens[0]) or "").startswith("<0x")
            if len(tokens) == 1 and not is_byte and self.decode(tokens) == text:
                return tuple(tokens)
        return ()

    def decode_within(self, tokens: Sequence[int]) -> str:
        """Text of tokens in the middle of a text, without special tokens: no space at their beginning is dropped."""
        anchor = self.anchor
        return self.decode([*anchor, *tokens])[len(self.decode(anchor)) :]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special tokens; U+FFFD where bytes are no characters."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _bytes_of(self, token: int) -> bytes:
        spelling = self.spelling(token)
        if spelling is None or token in self.special:
            return self.special.get(token, "").encode()
        found = None if token in self._added else spelled_bytes(spelling, self._decoder)
        return self.decode_within([token]).encode() if found is None else found

    @functools.cached_property
    def _decoder(self) -> bytes:
        """How the decoder is described in the tokenizer's file."""
        decoder = self._tokenizer.decoder
        return b"" if decoder is None else bytes(decoder.__getstate__())

    def spelled(self, tokens: Sequence[int]) -> str:
        """Text of tokens with the special ones spelled out, such as the mark that ends the thinking."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False)
        return text

    def spelled_answer(self, tokens: Sequence[int], stop_tokens: Container[int]) -> str:
        """What an answer's tokens say to a model with another vocabulary: their text in the middle of a text.

        Special tokens are spelled out, such as the mark that ends the thinking, but `stop_tokens` are left out. The
        other tokenizer's `encode` goes on with it.
        """
        pieces: list[str] = []
        run: list[int] = []
        for token in tokens:
            if token in stop_tokens:
                continue
            if token in self._added:
                pieces += [self.decode_within(run), self._added[token]]
                run = []
            else:
                run.append(token)
        return "".join([*pieces, self.decode_within(run)])

    def round_trips(self) -> str | None:
        """Returns the first of a few texts that does not come back from its tokens as it was; None if all do.

        Models whose vocabularies have nothing in common hand over through text, which must stay as it is.
        """
        for text in _PROBES:
            tokens = self._encoded(text)
            if tokens is None or self.spelled_answer(tokens, ()) != text:
                return text
        return None

    def _encoded(self, text: str) -> array[int] | None:
        """As `encode` for text that goes on; None where the vocabulary lacks a character and has no token for that."""
        try:
            return self.encode(text, begins=False)
        except Exception:  # noqa: BLE001 (the library raises nothing more special)
            return None

    def spelling(self, token: int) -> str | None:
        """The token as the vocabulary writes it (a space may be another character there); None beyond its end."""
        text: str | None = self._tokenizer.id_to_token(token)
        return text

    def token(self, spelling: str) -> int | None:
        """The id of a token as the vocabulary writes it; None if there is none."""
        found: int | None = self._tokenizer.token_to_id(spelling)
        return found

    def size(self) -> int:
        """One more than the highest id: there may be ids below it without a token."""
        return self._ids[-1] + 1 if self._ids else 0

    @functools.cached_property
    def _ids(self) -> list[int]:
        """All ids that have a token, sorted."""
        return sorted(set(self._tokenizer.get_vocab(with_added_tokens=True).values()))

    @functools.cached_property
    def _texts(self) -> list[str]:
        """Text that each of `_ids` has in the middle of a text."""
        begun = [[*self.anchor, token] for token in self._ids]
        texts: list[str] = self._tokenizer.decode_batch(begun, skip_special_tokens=False)
        skip = len(self.decode(self.anchor))
        return [text[skip:] for text in texts]

    def _containing(self, text: str) -> frozenset[int]:
        found = [token for token, own in zip(self._ids, self._texts, strict=True) if text in own]
        if len(found) > _MAX_CONTAINING:
            raise TooCommon(len(found))
        return frozenset(found)

    def added_tokens(self) -> dict[str, int]:
        """Ids of added tokens by their text, special or not; some of them may be entries as well."""
        return {text: token for token, text in self._added.items()}

    def eos_token(self) -> int | None:
        eos: int | None = self._tokenizer.token_to_id(self._special.get("eos_token", ""))
        return eos

    def algorithm(self) -> tuple[object, ...]:
        """What tells how entries spell text: equal for two tokenizers whose equal entries stand for equal text."""
        model = self._tokenizer.model
        marks = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        is_byte_level = b'"ByteLevel"' in self._decoder
        return (type(model).__name__, is_byte_level, *(getattr(model, mark, None) or None for mark in marks))

    def model_from(self, key: str) -> bytes:
        """The file from the value of its model's `key` on, unread; empty if there is no such key."""
        # A quote inside of a string is escaped, so this is no text of a token.
        return self._data.partition(f'"{key}":'.encode())[2]
