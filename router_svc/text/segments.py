"""The text of an answer's segments, where two models have no ids in common and hand over through text.

A segment is decoded by its writer's tokenizer as text that continues other text: special tokens spelled out, so that
the other model can read `<think>` as its own; stop tokens left out, for they end an answer and are none of its text.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from router_svc.text.tokenizer import Tokenizer
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model, tokens_of

# What decoders put for bytes that are no character, or not yet one.
_UNFINISHED = "\ufffd"
# More tokens than this without a whole character behind them are no text, but bytes that a model made up: nobody waits
# for them, or one model might stay the writer for ever.
MAX_WITHIN_CHARACTER = 15
# So many of them are looked at together at most.
_MAX_WINDOW = 256

# Places that are tried for a cut: a character has at most four bytes, and a token at least one.
_MAX_TRIED = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model's segment reads: its tokens, from the beginning of the segment on, as text that goes on."""

    tokenizer: Tokenizer
    stop_tokens: Container[int]

    def __call__(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.spelled_answer(tokens, self.stop_tokens)

    def can_be_cut_behind(self, token: int) -> bool:
        """Whether tokens behind this one, if the text up to it ends with a whole character, have their text alone.

        Decoders take bytes that follow each other together, and what is left out does not part them. And as they may
        drop a space at the beginning, there must be a token for the others to stand behind.
        """
        if not self.tokenizer.anchor or token in self.stop_tokens:
            return False
        spelling = self.tokenizer.spelling(token)
        return spelling is not None and not spelling.startswith("<0x")


class SegmentText:
    """The text of a segment that grows, without decoding it from its beginning each time.

    It is what its reading makes of all `tokens`. What is before the last whole character at which it can be cut is
    kept, and only the tokens behind that are decoded.

    Attributes:
        tokens: the segment's, in its writer's ids; they only grow.
        num_certain: characters of the text that no further token changes, as far as is known.
    """

    def __init__(self, reading: Reading) -> None:
        self.tokens = tokens_of()
        self._reading = reading
        self._certain = ""  # text of the first `_num` tokens
        self._num = 0

    @property
    def num_certain(self) -> int:
        return len(self._certain)

    def read(self) -> str:
        rest = self.tokens[self._num :]
        text = self._reading(rest)
        whole = self._certain + text
        num_tried = 0
        for num in range(len(rest), 0, -1):
            if num_tried == _MAX_TRIED:
                break
            if self._reading.can_be_cut_behind(rest[num - 1]):
                num_tried += 1
                piece = text if num == len(rest) else self._reading(rest[:num])
                if not piece.endswith(_UNFINISHED):
                    self._certain += piece
                    self._num += num
                    break
        return whole


def readings(vocabularies: Vocabularies) -> Mapping[Model, Reading]:
    """How each model's segments read to the other one."""
    return {model: Reading(vocabularies.tokenizer(model), vocabularies.stop_tokens[model]) for model in Model}


class CharacterWatch:
    """Says whether the text of the segment that is being written ends within a character.

    It does where decoding puts U+FFFD at its end, for the last few tokens. What came before the last whole character
    has no part in that, also where a decoder spoils a whole run of bytes for one that is wrong: that run was right up
    to there.
    """

    def __init__(self, texts: Mapping[Model, Reading]) -> None:
        self._texts = texts
        self._window: list[int] = []  # tokens since the last whole character
        self._num_waiting = 0

    @property
    def mid_character(self) -> bool:
        return 0 < self._num_waiting <= MAX_WITHIN_CHARACTER

    def begin_segment(self, writer: Model) -> None:
        self._window.clear()
        self._num_waiting = 0

    def keep(self, writer: Model, tokens: Sequence[int]) -> None:
        """Takes tokens that `writer` wrote."""
        text = self._texts[writer]
        for token in tokens:
            self._window = [*self._window[1 - _MAX_WINDOW :], token]
            if text(self._window).endswith(_UNFINISHED):
                self._num_waiting += 1
            else:
                self._window.clear()
                self._num_waiting = 0
