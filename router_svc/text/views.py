"""A session as each model reads it: its own prompts by its own template, in its own ids.

What is kept of a session (the trajectory) has each answer's tokens once. A worker holds what its model reads, and
positions on a worker count that. A view is a function of the trajectory's chunks, so any router makes the same one.

    trajectory   [prompt of the LLM | answer, ids of the LLM | next prompt ...
    LLM's view   the same array, unless its template drops something of earlier answers
    SLM's view   [prompt of the SLM | answer, its own ids    | next prompt ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model, ModelPrompt, tokens_of


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """An answer as a model has read it: its tokens, and the position behind them then."""

    tokens: array[int]
    end: int


class View(ABC):
    """What the worker of one model is to hold.

    Attributes:
        tokens: in the model's own ids. The array stays the same object and changes as the answer grows.
        start: the position in it of the answer's first token, behind the last prompt.
        num_kept_before: how many tokens of what it was before the last prompt still stand.
        is_shared: whether it is the trajectory's own array, so that nothing need be told or translated.
    """

    is_shared = False
    num_unread = 0  # tokens of the answer that are to be read at the next `refresh`, about as many as it will add

    def __init__(self, tokens: array[int]) -> None:
        self.tokens = tokens
        self.start = 0
        self.num_kept_before = 0
        self._past: list[PastAnswer] = []
        self._num_prompts = 0

    def answers(self) -> list[PastAnswer]:
        """The answers to all prompts so far, in order."""
        self.refresh()
        return [*self._past, self._answer(len(self.tokens))]

    def _answer(self, end: int) -> PastAnswer:
        return PastAnswer(self.tokens[self.start : end], end)

    def add_prompt(self, prompt: ModelPrompt) -> None:
        """Takes the next prompt of the session."""
        if self._num_prompts:
            self._past = self.answers()
        self._num_prompts += 1
        self.num_kept_before = prompt.num_before
        del self.tokens[prompt.num_before :]
        self.tokens.extend(prompt.tokens)
        self.start = len(self.tokens)

    @abstractmethod
    def begin_segment(self, writer: Model) -> None:
        """Takes note that `writer` writes from here on; it may have written before."""

    @abstractmethod
    def keep(self, writer: Model, tokens: Sequence[int]) -> None:
        """Takes tokens of the answer, in the answer's ids, that `writer` wrote."""

    def refresh(self) -> int | None:
        """Brings `tokens` up to date. Returns the first position whose token has changed; None: they only grew."""
        return None

    @abstractmethod
    def to_own(self, tokens: Iterable[int]) -> array[int]:
        """The model's ids for ids of the answer that this model may read; those without a counterpart are left out."""

    def own_ends(self, ends: Iterable[int]) -> frozenset[int]:
        """The model's ids that are one of these tokens of the answer, which end it or a run."""
        return frozenset(self.to_own(ends))

    @abstractmethod
    def to_answer(self, tokens: Iterable[int]) -> list[int]:
        """Ids of the answer for the model's own. Raises RstitchError (PROTOCOL) for one that it was not to write."""


class SameIds(View):
    """The answer in the same ids, behind a prompt of its own."""

    def begin_segment(self, writer: Model) -> None:
        pass

    def keep(self, writer: Model, tokens: Sequence[int]) -> None:
        self.tokens.extend(tokens)

    def to_own(self, tokens: Iterable[int]) -> array[int]:
        return tokens if isinstance(tokens, array) else tokens_of(tokens)

    def to_answer(self, tokens: Iterable[int]) -> list[int]:
        return tokens if isinstance(tokens, list) else list(tokens)


class SharedView(SameIds):
    """The trajectory as it is: whoever appends to that has appended to this."""

    is_shared = True

    def add_prompt(self, prompt: ModelPrompt) -> None:
        if self._num_prompts:
            self._past.append(self._answer(prompt.num_before))
        self._num_prompts += 1
        self.num_kept_before = prompt.num_before
        self.start = prompt.num_before + len(prompt.tokens)

    def keep(self, writer: Model, tokens: Sequence[int]) -> None:
        pass


class MappedView(View):
    """The SLM's, where its ids are not the LLM's."""

    def __init__(self, tokens: array[int], vocabularies: Vocabularies) -> None:
        super().__init__(tokens)
        self._vocabularies = vocabularies

    def begin_segment(self, writer: Model) -> None:
        pass

    def keep(self, writer: Model, tokens: Sequence[int]) -> None:
        self.tokens.extend(self.to_own(tokens))

    def to_own(self, tokens: Iterable[int]) -> array[int]:
        return self._vocabularies.to_slm(tokens)

    def own_ends(self, ends: Iterable[int]) -> frozenset[int]:
        return self._vocabularies.ends_of_slm(ends)

    def to_answer(self, tokens: Iterable[int]) -> list[int]:
        return self._vocabularies.to_llm(tokens)
