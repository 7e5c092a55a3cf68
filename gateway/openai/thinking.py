"""Parts an answer's text into the thinking and what is said, while it comes.

A mark may come in pieces, so that what could be its beginning is held back. It knows no wire.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import NamedTuple


class Marks(NamedTuple):
    """What a model puts around its thinking."""

    begin: str = "<think>"
    end: str = "</think>"


class Piece(NamedTuple):
    """New text, of which either part may be empty."""

    thinking: str = ""
    content: str = ""


class Parted:
    """One answer's text, parted. `thinking` says whether it is in its thinking now.

    A text without a mark at its beginning has no thinking, unless it is `open`: the prompt has begun it.
    """

    def __init__(self, marks: Marks, *, is_open: bool = False) -> None:
        self._marks = marks
        self._held = ""
        self._at_start = True  # nothing but blanks has come
        self._after_mark = False  # line ends behind a mark are none of the text
        self.thinking = is_open

    def feed(self, text: str) -> Piece:
        """Takes what comes next, and gives what is certain."""
        self._held += text
        made = ["", ""]  # content, thinking
        while self._held:
            if self._at_start and not self._begins():
                break
            if self._after_mark:
                self._held = self._held.lstrip("\n")
                self._after_mark = not self._held
            if not self.thinking:
                made[False] += self._taken(len(self._held))
                continue
            at = self._held.find(self._marks.end)
            if at < 0:
                made[True] += self._taken(len(self._held) - _overlap(self._held, self._marks.end))
                break
            made[True] += self._taken(at)
            self._taken(len(self._marks.end))
            self.thinking, self._after_mark = False, True
        return Piece(made[True], made[False])

    def end(self) -> Piece:
        """Gives what was held back; no more text comes."""
        rest, self._held = self._held, ""
        return Piece(rest, "") if self.thinking else Piece("", rest)

    def _begins(self) -> bool:
        """Whether it is certain how the text begins."""
        text, mark = self._held.lstrip(), self._marks.begin
        if not text or (len(text) < len(mark) and mark.startswith(text)):
            return False
        self._at_start = False
        if text.startswith(mark):
            self._held, self.thinking, self._after_mark = text[len(mark) :], True, True
        return True

    def _taken(self, num: int) -> str:
        taken, self._held = self._held[:num], self._held[num:]
        return taken


class ThoughtTokens:
    """Says of each token whether it is of the thinking, in whatever chunks they come.

    What comes before it is certain that a thinking begins, such as the first tokens of its mark, is none of it.
    """

    def __init__(self, marks: Marks, *, is_open: bool = False) -> None:
        self._parted = Parted(marks, is_open=is_open)
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def takes(self, token: bytes) -> bool:
        """Takes the bytes of the next one."""
        was_thinking = self._parted.thinking
        piece = self._parted.feed(self._decoder.decode(token))
        return was_thinking or self._parted.thinking or bool(piece.thinking)


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    return next((num for num in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:num])), 0)
