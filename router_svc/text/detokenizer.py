"""Tokens in, text out as it becomes certain.

It never cuts a character, and what it gives for a token is a function of the tokens up to it alone: a reader who comes
back at any token gets exactly the rest. It knows no stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What decoders put for bytes that are no character, or not yet one.
_UNFINISHED = "\ufffd"
# So many tokens without a whole character at their end are not text, but bytes that a model made up. They are given out
# as they are, or a reader would wait for the answer's end.
_MAX_HELD = 16
# Special tokens have no text, so that a window of nothing else would never be cut, and decoding it would take longer
# with each token.
_MAX_WINDOW = 64
# A character has at most four bytes, and a token at least one: an unfinished one lies within the last three tokens.
_MAX_UNFINISHED = 3

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Text of a growing sequence of tokens.

    A window of tokens is decoded with and without the newest ones; the difference is their text. If it ends with U+FFFD
    it is held back, as more bytes may make a character of it. The window begins with the piece that was given out last,
    because some decoders treat the beginning of what they are given in a special way:

        tokens   |  the piece given out last  |  newest tokens            |
                 0                            _shown            len(_window)
        text     |  _before                   |  fresh  |  U+FFFD, held   |

    A token's text alone would be wrong: one character's bytes may be spread over several tokens. The
    context is decoded with the first token, but never given out.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context)
        self._shown = len(self._window)  # number of the window's tokens whose text was given out
        self._before = decode(self._window) if self._window else ""

    def push(self, token: int) -> str:
        """Takes the next token and returns the text that it completes, "" while a character is unfinished."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.endswith(_UNFINISHED):
            return self._show(text, len(self._window))
        if len(self._window) - self._shown < _MAX_HELD:
            return ""
        # Far too much is held: somewhere in it is text that does not change any more with what follows. The longest
        # such beginning is given out, and only what can still be an unfinished character stays.
        for held in range(_MAX_UNFINISHED, _MAX_HELD):
            upto = len(self._window) - held
            certain = self._decode(self._window[:upto])
            if text.startswith(certain):
                return self._show(certain, upto)
        return ""

    def flush(self) -> str:
        """Returns what was held back, U+FFFD for bytes that are no character: no more tokens come."""
        if not self.holds:
            return ""
        return self._show(self._decode(self._window), len(self._window))

    @property
    def holds(self) -> bool:
        """Whether text of tokens already pushed is held back, because a character is unfinished."""
        return self._shown < len(self._window)

    def _show(self, text: str, upto: int) -> str:
        """Gives out `text`, which the window's first `upto` tokens have, as far as it is new."""
        fresh = text[len(self._before) :]
        # Cut at where the window was shown before, not at where it is shown now: the newest piece becomes the
        # beginning.
        if fresh or upto > _MAX_WINDOW:
            self._window, upto = self._window[self._shown :], upto - self._shown
            self._before = self._decode(self._window[:upto])
        self._shown = upto
        return fresh
