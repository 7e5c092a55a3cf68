"""What a reader of an answer is told, made from the chunks of its trajectory.

The same chunks give the same events however they were cut and wherever a reader comes in, so one who comes back at the
first token that he lacks gets every token and every piece of text exactly once; switches at that token come with it,
also to one who has seen them. It knows no wire.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from router_svc.text.answer_text import AnswerText
from router_svc.text.detokenizer import CONTEXT_TOKENS
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.details import cut_details
from router_svc.trajectory.types import Chunk, Model, Source, SwitchReason, tokens_of


@dataclass(frozen=True, slots=True)
class Written:
    """Tokens by one model, and the text that they complete."""

    model: Model
    position: int
    tokens: array[int]
    entropies: array[float]
    text: str
    uncertainties: array[float]
    consultations: tuple[Consultation, ...] = ()
    details: bytes = b""  # packed

    def cut(self, begin: int, end: int, text: str) -> Written:
        first, last = self.position + begin, self.position + end
        return Written(
            self.model,
            first,
            self.tokens[begin:end],
            self.entropies[begin:end],
            text,
            self.uncertainties[begin:end],
            tuple(asked for asked in self.consultations if first <= asked.position < last),
            cut_details(self.details, begin, end),
        )


@dataclass(frozen=True, slots=True)
class Switched:
    """The model `to` writes from `position` on."""

    to: Model
    position: int
    entropy: float
    reason: SwitchReason


Event = Written | Switched


class Reader:
    """Turns chunks into events.

    A token whose text is held back (an unfinished character, a possible stop string) waits for the next one or the end:
    the last token of an answer then carries all the text that is left, and no text ever comes without a token. A reader
    that is cut off lacks the token and its text, or has both. What comes before `position` is read for its text only.
    """

    def __init__(
        self, tokenizers: Mapping[Model, Tokenizer], context: Sequence[int], stops: Sequence[str], position: int
    ) -> None:
        self._text = AnswerText(tokenizers, context, stops)
        self.position = position  # of the first token that the reader has not got
        self._waiting: Written | None = None

    def read(self, chunks: Iterable[Chunk]) -> list[Event]:
        """The events of chunks that come next in the answer."""
        events: list[Event] = []
        for chunk in chunks:
            self._read(chunk, events)
        return events

    def end(self) -> list[Event]:
        """The events that are left, as the answer is over."""
        events: list[Event] = []
        self._release(self._text.flush(), events)
        return events

    def _read(self, chunk: Chunk, events: list[Event]) -> None:
        model, position, num = chunk.source.model, chunk.position, len(chunk.tokens)
        if chunk.reason and position >= self.position:
            self._release("", events)
            events.append(Switched(model, position, chunk.switch_entropy, chunk.reason))
        if not num:
            return
        texts = [self._text.push(token, model) for token in chunk.tokens]
        if position + num <= self.position:
            return
        self._release("", events)
        skip = max(0, self.position - position)
        certain = num - 1 if self._text.holds else num
        text = "".join(texts[skip:certain])
        beside = chunk.uncertainties, chunk.consultations, chunk.details
        whole = Written(model, position, chunk.tokens, chunk.entropies, text, *beside)
        if certain > skip:
            # Mostly all of it: what is cut is copied.
            self._give(whole if certain - skip == num else whole.cut(skip, certain, text), events)
        if certain < num:
            self._waiting = whole.cut(certain, num, texts[-1])

    def _release(self, text: str, events: list[Event]) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._give(replace(waiting, text=waiting.text + text), events)

    def _give(self, written: Written, events: list[Event]) -> None:
        self.position = written.position + len(written.tokens)
        events.append(written)


def context_of(chunks: Sequence[Chunk], position: int, tokenizers: Mapping[Model, Tokenizer]) -> array[int]:
    """The last tokens before the answer or prompt that begins at `position`, in ids of the LLM, for its text to go on.

    Where the models have a tokenizer each, those that only the SLM knows do not count: what is left goes on with a text
    that begins anywhere.
    """
    found = tokens_of()
    for chunk in reversed(chunks):
        if chunk.position >= position or not chunk.tokens:
            continue
        if chunk.source is Source.SLM and tokenizers[Model.SLM] is not tokenizers[Model.LLM]:
            return tokens_of([*tokenizers[Model.LLM].anchor, *found])[-CONTEXT_TOKENS:]
        found = chunk.tokens[-CONTEXT_TOKENS:] + found
        if len(found) >= CONTEXT_TOKENS:
            break
    return found[-CONTEXT_TOKENS:]
