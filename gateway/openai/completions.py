"""The two shapes of a completion, whole and in chunks, for chats and for plain prompts. It knows no route."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.openai.choice import Choice, usage_of
from gateway.openai.thinking import Piece


class Shape(Protocol):
    """How choices are told."""

    def opening(self, choice: Choice) -> list[dict[str, Any]]:
        """Makes what a stream begins with."""

    def chunk(self, choice: Choice, piece: Piece, tokens: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Makes what is sent of a piece and its tokens."""

    def ending(self, choice: Choice) -> dict[str, Any]:
        """Makes the last chunk of a choice."""

    def usage(self, choices: list[Choice]) -> dict[str, Any]:
        """Makes the chunk that has no choice but what all took."""

    def whole(self, choices: list[Choice]) -> dict[str, Any]:
        """Makes the answer in one piece."""


@dataclass
class ChatShape:
    """chat.completion and chat.completion.chunk."""

    model: str
    tokens: bool = False  # whether logprobs were asked for
    created: int = field(default_factory=lambda: int(time.time()))
    _id: str = ""  # of the whole: the session of the choice that is told first

    def opening(self, choice: Choice) -> list[dict[str, Any]]:
        return [self._chunk(choice, {"role": "assistant", "content": ""})]

    def chunk(self, choice: Choice, piece: Piece, tokens: Sequence[dict[str, Any]]) -> dict[str, Any]:
        delta: dict[str, Any] = {"content": piece.content} if piece.content or not piece.thinking else {}
        if piece.thinking:  # both spellings: clients know one or the other
            delta |= {"reasoning": piece.thinking, "reasoning_content": piece.thinking}
        return self._chunk(choice, delta, self._logprobs(tokens))

    def ending(self, choice: Choice) -> dict[str, Any]:
        made = self._chunk(choice, {}, finish_reason=choice.finish_reason)
        made["choices"][0]["rstitch"] = choice.totals()
        return made

    def usage(self, choices: list[Choice]) -> dict[str, Any]:
        return self._frame(choices[0], "chat.completion.chunk") | {"choices": [], "usage": usage_of(choices)}

    def whole(self, choices: list[Choice]) -> dict[str, Any]:
        made = self._frame(choices[0], "chat.completion") | {"choices": [self._choice(choice) for choice in choices]}
        return made | {"usage": usage_of(choices)}

    def partial(self, choice: Choice) -> dict[str, Any]:
        """Makes what there is of an answer that has not ended, without totals."""
        # A stored completion of OpenAI's has a reason; which state it is in is told beside it.
        told = self._message(choice) | {"finish_reason": "length"}
        return self._frame(choice, "chat.completion") | {"choices": [told], "usage": usage_of([choice])}

    def _choice(self, choice: Choice) -> dict[str, Any]:
        return self._message(choice) | {"finish_reason": choice.finish_reason, "rstitch": choice.totals()}

    def _message(self, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
        if choice.thinking:
            message |= {"reasoning": choice.thinking, "reasoning_content": choice.thinking}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice.tokens),
        }

    def _chunk(
        self, choice: Choice, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        told = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._frame(choice, "chat.completion.chunk") | {"choices": [told]}

    def _logprobs(self, tokens: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        return {"content": list(tokens), "refusal": None} if self.tokens else None

    def _frame(self, choice: Choice, kind: str) -> dict[str, Any]:
        self._id = self._id or choice.session_id
        return {"id": self._id, "object": kind, "created": self.created, "model": self.model}


@dataclass
class TextShape:
    """text_completion, which is the same whole and in chunks."""

    model: str
    num_prompts: int = 1
    tokens: bool = False
    echoed: Sequence[str] = ()  # the prompts, of which each choice shows its own
    created: int = field(default_factory=lambda: int(time.time()))
    _id: str = ""  # of the whole: the session of the choice that is told first
    _told: dict[int, int] = field(default_factory=dict)  # characters of each choice's tokens so far

    def opening(self, choice: Choice) -> list[dict[str, Any]]:
        return [self._frame(choice, [self._choice(choice, echo, ())])] if (echo := self._echo(choice)) else []

    def chunk(self, choice: Choice, piece: Piece, tokens: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return self._frame(choice, [self._choice(choice, piece.content, tokens)])

    def ending(self, choice: Choice) -> dict[str, Any]:
        told = self._choice(choice, "", (), choice.finish_reason) | {"rstitch": choice.totals()}
        return self._frame(choice, [told])

    def usage(self, choices: list[Choice]) -> dict[str, Any]:
        return self._frame(choices[0], []) | {"usage": usage_of(choices, self.num_prompts)}

    def whole(self, choices: list[Choice]) -> dict[str, Any]:
        told = [
            self._choice(choice, self._echo(choice) + choice.content, choice.tokens, choice.finish_reason)
            | {"rstitch": choice.totals()}
            for choice in choices
        ]
        return self._frame(choices[0], told) | {"usage": usage_of(choices, self.num_prompts)}

    def _echo(self, choice: Choice) -> str:
        return self.echoed[choice.index] if self.echoed else ""

    def _choice(
        self, choice: Choice, text: str, tokens: Sequence[dict[str, Any]], finish_reason: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._columns(choice, tokens) if self.tokens else None
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _frame(self, choice: Choice, choices: list[dict[str, Any]]) -> dict[str, Any]:
        self._id = self._id or choice.session_id
        made = {"id": self._id, "object": "text_completion", "created": self.created, "model": self.model}
        return made | {"choices": choices}

    def _columns(self, choice: Choice, tokens: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tells tokens as plain completions do: a list of each thing."""
        offsets = []
        for token in tokens:
            offsets.append(self._told.get(choice.index, 0))
            self._told[choice.index] = offsets[-1] + len(token["token"])
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [{each["token"]: each["logprob"] for each in token["top_logprobs"]} for token in tokens],
            "text_offset": offsets,
            "rstitch": [token["rstitch"] for token in tokens],
        }
