"""The text of an answer's segments, where two models have no ids in common and hand over through text.

A segment is decoded by its writer's tokenizer as text that continues other text: special tokens spelled out, so that
the other model can read `<think>` as its own; stop tokens left out, for they end an answer and are none of its text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model

# What decoders put for bytes that are no character, or not yet one.
_UNFINISHED = "\ufffd"
# More tokens than this without a whole character behind them are no text, but bytes that a model made up: nobody waits
# for them, or one model might stay the writer for ever.
MAX_WITHIN_CHARACTER = 15
# So many of them are looked at together at most.
_MAX_WINDOW = 256

# How a model's segment reads: its tokens, from the beginning of the segment on, as text that goes on.
Reading = Callable[[Sequence[int]], str]


def readings(vocabularies: Vocabularies) -> Mapping[Model, Reading]:
    """How each model's segments read to the other one."""
    return {
        model: partial(vocabularies.tokenizer(model).spelled_answer, stop_tokens=vocabularies.stop_tokens[model])
        for model in Model
    }


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
