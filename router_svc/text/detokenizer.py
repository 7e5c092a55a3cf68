"""Tokens in, text out as it becomes certain.

It never cuts a character, and what it gives for a token is a function of the tokens up to it alone: a reader who comes
back at any token gets exactly the rest. It knows no stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from router_svc.text.tokenizer import Tokenizer

# Tokens before those whose text is wanted that a detokenizer is shown. Some decoders drop a space at the beginning of
# what they are given, and the text before may end within a character. One whole character is enough for both, but it is
# behind any number of special tokens; and every reader takes the same ones, so that all see the same text.
CONTEXT_TOKENS = 32

# What decoders put for bytes that are no character, or not yet one.
_UNFINISHED = "\ufffd"
# So many tokens without a whole character at their end are not text, but bytes that a model made up. They are given out
# as they are, or a reader would wait for the answer's end.
_MAX_HELD = 16
# Some tokens have no text, so that a window of nothing else would never be cut, and decoding it would take longer
# with each token.
_MAX_WINDOW = 64
# A character has at most four bytes, and a token at least one: an unfinished one lies within the last three tokens.
_MAX_UNFINISHED = 3


class Detokenizer:
    """Text of a growing sequence of tokens: what they add to the text of the `context`, the last tokens before them.

    A window of tokens is decoded with and without the newest ones; the difference is their text. If it ends with U+FFFD
    it is held back, as more bytes may make a character of it. The window begins with the piece that was given out last,
    because some decoders treat the beginning of what they are given in a special way:

        tokens   |  the piece given out last  |  newest tokens            |
                 0                            _shown            len(_window)
        text     |  _before                   |  fresh  |  U+FFFD, held   |

    A token's text alone would be wrong: one character's bytes may be spread over several tokens, some of them in the
    context. Then the whole character is text of the token that completes it. Special tokens have no text, wherever they
    are.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._decode = tokenizer.decode
        self._special = tokenizer.special
        known = [token for token in context if token not in self._special]
        begin, end = self._whole_characters(known)
        self._window = known[begin:]
        self._shown = end - begin  # number of the window's tokens whose text was given out
        if begin == end and (begin or len(context) >= CONTEXT_TOKENS):
            # The context is the end of a text, and no token of it can stand at the beginning.
            self._window[:0] = tokenizer.anchor
            self._shown = len(tokenizer.anchor)
        self._before = self._decode(self._window[: self._shown])
        # Text of the context that it ends within, as nobody knew yet what would follow; not to be given out again.
        self._owed = self._fresh(self._decode(self._window), len(self._window))

    def push(self, token: int) -> str:
        """Takes the next token and returns the text that it completes, "" while a character is unfinished."""
        if token in self._special:
            return ""
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
        fresh = self._fresh(text, upto)
        # Cut at where the window was shown before, not at where it is shown now: the newest piece becomes the
        # beginning.
        if fresh or upto > _MAX_WINDOW:
            self._window, upto = self._window[self._shown :], upto - self._shown
            self._before = self._tokenizer.text_of(self._window[0]) if upto == 1 else self._decode(self._window[:upto])
        self._shown = upto
        if self._owed:
            pairs = zip(fresh, self._owed, strict=False)
            known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            self._owed = self._owed[known:] if known == len(fresh) else ""
            fresh = fresh[known:]
        return fresh

    def _fresh(self, text: str, upto: int) -> str:
        """What `text`, which the window's first `upto` tokens have, adds to what was given out of it."""
        if text.startswith(self._before):
            return text[len(self._before) :]
        # Some decoders take a run of tokens that are bytes for no characters at all if one of them is wrong, also those
        # that were given out as characters.
        return self._tokenizer.decode_within(self._window[self._shown : upto])

    def _whole_characters(self, tokens: Sequence[int]) -> tuple[int, int]:
        """The shortest piece close to the end that is whole characters; an empty one before what may be part of one."""
        least = max(0, len(tokens) - _MAX_UNFINISHED)
        for end in range(len(tokens), least - 1, -1):
            for begin in range(end - 1, -1, -1):
                text = self._decode(tokens[begin:end])
                if text and not text.startswith(_UNFINISHED) and not text.endswith(_UNFINISHED):
                    return begin, end
        return least, least
