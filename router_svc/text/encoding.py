"""Texts into token ids so that a long one stops nobody: off the interpreter's lock, in pieces, and only while it fits.

The library's own `encode` keeps the lock for as long as it takes, a second for each few MiB; `encode_batch_fast` does
not. Where the tokenizer allows it a text is cut between words and encoded piece by piece: then it takes memory for a
piece, and ends as soon as there are more tokens than may be. It knows no templates and no sessions.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from router_svc.text.continuation import continuing
from router_svc.text.cutting import splits_at_spaces
from router_svc.text.least_tokens import LeastTokens
from router_svc.trajectory.types import tokens_of

# Characters of a piece, or a few more.
_PIECE = 1 << 15
# Where a text can be cut: see `cutting`. It is looked for a piece at a time, as a search keeps the interpreter's lock.
_CUT = re.compile("(?<=[A-Za-z]) (?=[A-Za-z])")
# A text is one job: threads of the library's own would only spin. Whoever sets it knows better.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class TooLong(Exception):
    """A text has more tokens than `most`."""

    def __init__(self, most: int) -> None:
        super().__init__(f"it has more than {most} tokens")
        self.most = most


class Encoder:
    """Encodes texts with one tokenizer of the library `tokenizers`. Threads may share it.

    `most` of its methods is how many tokens there may be; they raise TooLong, if they can before any are made.

    Args:
        size: what spells an added token with an id from here on is text like any other where it goes on.
    """

    def __init__(self, tokenizer: Any, size: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._added = frozenset(tokenizer.get_added_tokens_decoder())
        self._least = LeastTokens(tokenizer)

    @functools.cached_property
    def as_is(self) -> Any:
        """The tokenizer for text that goes on with other text and stays as it is."""
        return continuing(self._tokenizer, as_is=True, size=self._size)

    @functools.cached_property
    def _within(self) -> Any:
        """The tokenizer for what stands in the middle of a text."""
        return continuing(self._tokenizer, as_is=False)

    @functools.cached_property
    def as_is_splits(self) -> bool:
        """Whether text that goes on can be encoded in parts, cut before spaces between letters."""
        return splits_at_spaces(self.as_is)

    @functools.cached_property
    def _splits(self) -> bool:
        return splits_at_spaces(self._within)

    def whole(self, text: str, most: int = sys.maxsize) -> array[int]:
        """Tokens of a text by itself, with those that the tokenizer puts around one."""
        self._check(text, most)
        if len(text) <= _PIECE or not self._splits:
            return _checked(_ids(self._tokenizer, text, around=True), most)
        before, behind = self._around
        return _checked(tokens_of(before) + self.rendered(text, most) + tokens_of(behind), most)

    def rendered(self, text: str, most: int = sys.maxsize) -> array[int]:
        """Tokens of a text by itself, and nothing around them."""
        self._check(text, most)
        pieces = _pieces(text, self._splits)
        return _joined(_ids(self._tokenizer, next(pieces)), pieces, self._end, most)

    def end(self, text: str, most: int = sys.maxsize) -> array[int]:
        """Tokens that a text has at the end of another, which the tokenizer has from its beginning."""
        self._check(text, most)
        return _joined(tokens_of(), _pieces(text, self._splits), self._end, most)

    def going_on(self, text: str, most: int = sys.maxsize) -> array[int]:
        """Tokens of a text that goes on with another as it is."""
        self._check(text, most)
        return _joined(tokens_of(), _pieces(text, self.as_is_splits), functools.partial(_ids, self.as_is), most)

    def _check(self, text: str, most: int) -> None:
        if self._least.beyond(text, most):
            raise TooLong(most)

    def _end(self, text: str) -> array[int]:
        if self._within is self._tokenizer:
            return _ids(self._tokenizer, text)
        (encoding,) = self._within.encode_batch([text], add_special_tokens=False)
        # Up to the first added token the text goes on with what was there. What follows that token is where the
        # tokenizer may put a space in the middle of a text, too.
        tokens = tokens_of(encoding.ids)
        for index, token in enumerate(tokens):
            if token in self._added:
                start, _ = encoding.token_to_chars(index)
                return tokens[:index] + _ids(self._tokenizer, text[start:])
        return tokens

    @functools.cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text."""
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        own = [index for index, is_put in enumerate(encoding.special_tokens_mask) if not is_put]
        return (encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]) if own else (encoding.ids, [])


def _ids(tokenizer: Any, text: str, *, around: bool = False) -> array[int]:
    (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=around)
    return tokens_of(encoding.ids)


def _joined(made: array[int], pieces: Iterator[str], encode: Callable[[str], array[int]], most: int) -> array[int]:
    for piece in pieces:
        made += encode(piece)
        _checked(made, most)
    return _checked(made, most)


def _checked(tokens: array[int], most: int) -> array[int]:
    if len(tokens) > most:
        raise TooLong(most)
    return tokens


def _pieces(text: str, splits: bool) -> Iterator[str]:
    """The text in pieces whose tokens are those of the whole: at least one, and but one if it cannot be cut."""
    start, at = 0, _PIECE
    while splits and at < len(text):
        cut = _CUT.search(text, at, at + _PIECE)
        if cut is None:
            at += _PIECE - 2
            continue
        yield text[start : cut.start()]
        start, at = cut.start(), cut.start() + _PIECE
    yield text[start:]
