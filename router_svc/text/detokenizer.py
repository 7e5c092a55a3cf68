"""Tokens in, text out as it becomes certain.

It never cuts a character, and what it gives for a token is a function of the tokens up to it alone: a reader who comes
back at any token gets exactly the rest. It knows no stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"
# So many tokens without a whole character at their end are not text; give them out as they are.
_MAX_HELD = 16
# Special tokens have no text; a window of nothing else must not grow for ever.
_MAX_WINDOW = 64
# A character has at most four bytes: an unfinished one lies within the last three tokens.
_MAX_UNFINISHED = 3

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Text of a growing sequence of tokens.

    A window of tokens is decoded with and without the newest; the difference is their text, and an end of U+FFFD is
    held back: more bytes may come. The window starts one piece before: some decoders treat a beginning otherwise.

    Args:
        decode: token ids to text, without special tokens.
        context: tokens before the first, which only the window sees.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context)
        self._shown = len(self._window)  # tokens of the window whose text is out
        self._before = decode(self._window) if self._window else ""

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.endswith(_UNFINISHED):
            return self._show(text, len(self._window))
        if len(self._window) - self._shown < _MAX_HELD:
            return ""
        for held in range(_MAX_UNFINISHED, _MAX_HELD):
            upto = len(self._window) - held
            certain = self._decode(self._window[:upto])
            if text.startswith(certain):
                return self._show(certain, upto)
        return ""

    def flush(self) -> str:
        """The rest: no more tokens come."""
        if not self.holds:
            return ""
        return self._show(self._decode(self._window), len(self._window))

    @property
    def holds(self) -> bool:
        """Whether a character is unfinished."""
        return self._shown < len(self._window)

    def _show(self, text: str, upto: int) -> str:
        fresh = text[len(self._before) :]
        if fresh or upto > _MAX_WINDOW:
            self._window, upto = self._window[self._shown :], upto - self._shown
            self._before = self._decode(self._window[:upto])
        self._shown = upto
        return fresh
