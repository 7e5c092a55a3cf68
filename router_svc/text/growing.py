"""Tokens of a text that grows, without encoding it from its beginning each time.

A text is cut before a space between two words, where nothing that a tokenizer does can reach across, and only what is
behind the last cut is encoded again. With a tokenizer for which that does not hold the whole text is.
"""

from __future__ import annotations

from array import array

from router_svc.text.cutting import LETTERS
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import tokens_of


class GrowingText:
    """Encodes texts of which each mostly goes on from the one before, as `Tokenizer.encode` does in one piece."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._text = ""  # encoded last
        self._tokens = tokens_of()  # up to the last cut
        self._cuts = [(0, 0)]  # positions in the text, and how many tokens there are up to there

    def encode(self, text: str) -> array[int]:
        """Tokens of a text that continues other text."""
        if not self._tokenizer.splits_at_spaces:
            return self._tokenizer.encode(text, begins=False)
        # A cut is one by the characters around it.
        while len(self._cuts) > 1 and not text.startswith(self._text[: self._cuts[-1][0] + 2]):
            self._cuts.pop()
        at, num = self._cuts[-1]
        del self._tokens[num:]
        self._text = text
        if (cut := _last_cut(text, at)) > at:
            self._tokens.extend(self._tokenizer.encode(text[at:cut], begins=False))
            self._cuts.append((cut, len(self._tokens)))
            at = cut
        return self._tokens + self._tokenizer.encode(text[at:], begins=False)


def _last_cut(text: str, after: int) -> int:
    """The last place behind `after` where the text can be cut; `after` if there is none."""
    at = len(text)
    while (at := text.rfind(" ", after + 1, at)) >= 0:
        if text[at - 1] in LETTERS and text[at + 1 : at + 2] in LETTERS:
            return at
    return after
