"""A session as one model of an unrelated pair reads it: answers come through text.

Where the two models have no ids in common, an answer's segments are each in their writer's own ids:

    trajectory   [prompt | SLM's a b c | LLM's X Y | SLM's d e ...
    SLM's view   [its prompt | the text of "a b c X Y" by its own tokenizer | d e ...
    LLM's view   [its prompt | the text of "a b c X Y d e" by its own tokenizer

So whoever becomes the writer reads the whole text so far as it would read it in a prompt, and from there on its own
tokens. A text's last tokens may change with what follows, and a model's own tokens need not be those that its tokenizer
would make: then the view changes from there on, and its worker is rolled back.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

from router_svc.text.growing import GrowingText
from router_svc.text.segments import Reading, SegmentText
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.views import View
from router_svc.trajectory.types import Model, ModelPrompt, common_prefix, tokens_of


class TextView(View):
    """What one model's worker is to hold. Its tokens are right after `refresh` or `add_prompt`, and while it writes.

    To go through a trajectory costs one encoding of each answer's text, to become the writer one of what came since the
    last, or of the whole where its tokenizer does not let it be cut.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, texts: Mapping[Model, Reading]) -> None:
        super().__init__(tokens_of())
        self._model = model
        self._growing = GrowingText(tokenizer)
        self._texts = texts
        self._text_before = ""  # of the segments before the one that is being written
        self._writer = model
        self._segment = SegmentText(texts[model])  # that one
        self._is_stale = False  # whether `tokens` are not yet what the model reads

    @property
    def text(self) -> str:
        return self._text_before + self._segment.read()

    def text_from(self, begin: int) -> tuple[str, int]:
        """The answer's text from its character `begin` on, and how many characters from 0 on will not change."""
        before, segment = self._text_before, self._segment.read()
        num = len(before)
        text = before[begin:] + segment if begin < num else segment[begin - num :]
        return text, num + self._segment.num_certain

    def add_prompt(self, prompt: ModelPrompt) -> None:
        super().add_prompt(prompt)
        self._text_before, self._is_stale = "", False
        self._segment = SegmentText(self._texts[self._writer])

    def begin_segment(self, writer: Model) -> None:
        if self._segment.tokens:
            self._text_before += self._segment.read()
        self._writer = writer
        self._segment = SegmentText(self._texts[writer])
        self._is_stale = True

    def keep(self, writer: Model, tokens: Sequence[int]) -> None:
        assert writer is self._writer, "a segment has one writer"
        self._segment.tokens.extend(tokens)
        if writer is self._model and not self._is_stale:
            self.tokens.extend(tokens)
        else:
            self._is_stale = True
            self.num_unread += len(tokens)

    def refresh(self) -> int | None:
        if not self._is_stale:
            return None
        self._is_stale, self.num_unread = False, 0
        if self._writer is self._model:
            read = self._growing.encode(self._text_before) + self._segment.tokens
        else:
            read = self._growing.encode(self.text)
        before = self.tokens[self.start :]
        num = common_prefix(before, read)
        del self.tokens[self.start + num :]
        self.tokens.extend(read[num:])
        return self.start + num if num < len(before) else None

    def to_own(self, tokens: Iterable[int]) -> array[int]:
        """A run of this model is its own segment, in its own ids."""
        return tokens if isinstance(tokens, array) else tokens_of(tokens)

    def to_answer(self, tokens: Iterable[int]) -> list[int]:
        return tokens if isinstance(tokens, list) else list(tokens)
