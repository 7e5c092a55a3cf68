"""Text in, token ids out, from the files that a worker sends: no model files, no transformers.

It renders chat templates as transformers does and knows how to go on with a conversation whose tokens are kept. It does
not turn tokens into text while they come: that is `detokenizer`.
"""

from __future__ import annotations

import functools
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

# Stands for an earlier answer when a template is asked how a conversation goes on.
_ANSWER = "RSTITCH-ANSWER-4F1D"
# A piece of text in more tokens than this is no mark of anything; each run of an answer names them all.
_MAX_CONTAINING = 8192
_MAX_REMEMBERED = 64  # pieces of text looked for


class TooCommon(ValueError):
    """A piece of text is in `num` tokens."""

    def __init__(self, num: int) -> None:
        super().__init__(f"it is in {num} tokens")
        self.num = num


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a worker's GetTokenizer sends.

    Attributes:
        data: of tokenizer.json.
        chat_template: Jinja; empty if the model has none.
        special_tokens: bos_token, eos_token, ... by name.
        early_exit: what the model's folder says of it.
    """

    data: bytes
    chat_template: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    early_exit: ExitStyle = field(default_factory=ExitStyle)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


class Tokenizer:
    """The pair's tokenizer and chat template. Raises RstitchError (BAD_TOKENIZER) if the files make none.

    Attributes:
        exit_style: what the models' folders say of early exit.
        containing: the tokens whose text contains a piece of text. Raises TooCommon. Slow the first time.
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
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = dict(files.special_tokens)
        self.exit_style = files.early_exit
        self.containing = functools.lru_cache(_MAX_REMEMBERED)(self._containing)

    def encode(self, text: str, *, begins: bool) -> array[int]:
        """Raw text; at the beginning of a session with the tokenizer's own special tokens (such as BOS)."""
        return tokens_of(self._tokenizer.encode(text, add_special_tokens=begins).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens; U+FFFD where bytes are no characters."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def spelled(self, tokens: Sequence[int]) -> str:
        """Text with special tokens."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False)
        return text

    def spelling(self, token: int) -> str | None:
        """The token as the vocabulary has it; None beyond its end."""
        text: str | None = self._tokenizer.id_to_token(token)
        return text

    def size(self) -> int:
        """Entries of the vocabulary, added ones included."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    @functools.cached_property
    def _texts(self) -> list[str]:
        """Of each token by itself."""
        tokens = [[token] for token in range(self.size())]
        texts: list[str] = self._tokenizer.decode_batch(tokens, skip_special_tokens=False)
        return texts

    def _containing(self, text: str) -> frozenset[int]:
        found = [token for token, own in enumerate(self._texts) if text in own]
        if len(found) > _MAX_CONTAINING:
            raise TooCommon(len(found))
        return frozenset(found)

    def chat(self, messages: Sequence[Message]) -> array[int]:
        """A conversation from its beginning, up to where the assistant speaks. Raises RstitchError (field `chat`)."""
        return self._encode_rendered(self._render([_as_dict(message) for message in messages]))

    def chat_after(self, messages: Sequence[Message], last_token: int, ended: bool) -> array[int]:
        """What is put behind a session's tokens to go on with `messages`.

        The tokens kept stay as they are, so that both caches stay good; nothing is rendered again. The template is
        asked what it puts behind an answer: it renders a stand-in for the conversation so far, then `messages`; what
        follows the stand-in is the end of the assistant's turn, the new messages and the opening of the next turn. If
        the session ended with the stop token that the template would put there, that is not put twice; if it did not
        (limit, stop string, other stop token), the turn is closed as the template does.

        Args:
            last_token: of the session.
            ended: whether that is a stop token.
        """
        stand_in = [{"role": "user", "content": "-"}, {"role": "assistant", "content": _ANSWER}]
        text = self._render(stand_in + [_as_dict(message) for message in messages])
        at = text.find(_ANSWER)
        if at < 0:
            raise invalid("chat", "the chat template drops earlier answers.", "Send the whole conversation anew.")
        rest = text[at + len(_ANSWER) :]
        spelling = self.spelling(last_token)
        if ended and spelling and rest.startswith(spelling):
            rest = rest[len(spelling) :]
        return self._encode_rendered(rest)

    def _encode_rendered(self, text: str) -> array[int]:
        """Templates write special tokens themselves."""
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


def first_difference(slm: Tokenizer, llm: Tokenizer) -> str | None:
    """Which token id first means something else to the two models; None if none does."""
    for token in range(max(slm.size(), llm.size())):
        ours, theirs = slm.spelling(token), llm.spelling(token)
        if ours != theirs:
            return f"token id {token} is {_shown(ours)} to the SLM and {_shown(theirs)} to the LLM"
    return None


def _shown(spelling: str | None) -> str:
    return "nothing" if spelling is None else repr(spelling)


def _as_dict(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _environment() -> jinja2.Environment:
    """As transformers sets it up: templates from the hub are other people's code."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here it only has to be let through."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own form

    def parse(self, parser: Any) -> Any:
        """The block's body alone."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
