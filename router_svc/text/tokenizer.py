"""Text in, token ids out, from the files that a worker sends: the router needs no model files and no transformers.

It renders chat templates as transformers does, and knows how to go on with a conversation whose tokens are kept. It
does not turn tokens into text while they come: `detokenizer` does.
"""

from __future__ import annotations

import functools
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import grpc
import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as HfTokenizer

from router_svc.policies.early_exit import ExitStyle
from router_svc.trajectory.types import tokens_of
from rstitch.errors import RstitchError, invalid

# Stands for an earlier answer when a template is asked how a conversation goes on; found again in what it renders, so
# it must be a text that no template and no message holds.
_ANSWER = "RSTITCH-ANSWER-4F1D"
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


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; which roles there are is up to the model's template."""

    role: str
    content: str


class Tokenizer:
    """The pair's tokenizer and chat template. Raises RstitchError (BAD_TOKENIZER) if the files make none.

    Attributes:
        exit_style: how the models' folders say that they answer early.
        containing: returns the tokens whose text contains a piece of text. Raises TooCommon. Slow the first time.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        try:
            self._tokenizer: Any = HfTokenizer.from_str(files.data.decode("utf-8"))
            self._template = _environment().from_string(files.chat_template) if files.chat_template else None
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
        return self._encode_rendered(self._render([asdict(message) for message in messages]))

    def chat_after(self, messages: Sequence[Message], last_token: int, ended: bool) -> array[int]:
        """Tokens to put behind a session's tokens to go on with `messages`.

        The tokens kept stay as they are, so that both workers' caches stay good; nothing is rendered again. The
        template is asked what it puts behind an answer: it renders a stand-in for the conversation so far, then
        `messages`.

            rendered   <user> - <assistant> ANSWER <end> <user> the new messages <end> <assistant>
            sent                                   |---------------------------------------------|

        If the session ended with the stop token that the template puts there, that is not put twice; if it did not (its
        limit, a stop string, another stop token), the turn is closed as the template does it.
        """
        stand_in = [{"role": "user", "content": "-"}, {"role": "assistant", "content": _ANSWER}]
        text = self._render(stand_in + [asdict(message) for message in messages])
        # Some templates show only the last turns, or drop what an answer thought.
        at = text.find(_ANSWER)
        if at < 0:
            raise invalid("chat", "the chat template drops earlier answers.", "Send the whole conversation anew.")
        rest = text[at + len(_ANSWER) :]
        spelling = self.spelling(last_token)
        if ended and spelling and rest.startswith(spelling):
            rest = rest[len(spelling) :]
        return self._encode_rendered(rest)

    def _encode_rendered(self, text: str) -> array[int]:
        """Tokens of what a template rendered: it writes the special tokens itself."""
        return tokens_of(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if self._template is None:
            raise invalid("chat", "the models have no chat template.", "Send text or tokens.")
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._special)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise invalid(
                "chat", f"the chat template refuses this conversation: {error}.", "Check roles and their order."
            ) from error

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


def _environment() -> jinja2.Environment:
    """Jinja as transformers sets it up, sandboxed: templates from the hub are other people's code."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    # Templates of some models put the date into the first message.
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _GenerationBlocks(jinja2.ext.Extension):
    """Lets `{% generation %}` through, which marks the assistant's words for training and means nothing here."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own form

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
