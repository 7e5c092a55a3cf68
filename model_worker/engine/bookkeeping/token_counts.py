"""How often an answer has each of its tokens, kept up to date token by token. No torch; it knows no penalty."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Counted(NamedTuple):
    """Tokens, each once, and how often each was counted; not changed any more."""

    tokens: array[int]  # int64
    counts: array[float]  # float64


@dataclass(slots=True)
class TokenCounts:
    """Counts of a session's tokens from position `start` on, for one run: that run alone changes these tokens."""

    # As far as they are counted the tokens are known, which is sound since a run only appends, but for a draft. What
    # follows a draft that is dropped begins where the draft began, and so before the end of what was counted:
    #
    #   start ............. draft begins ............. end
    #   |--- counted -----------------------------------|
    #                       ^ the next one to be asked for: all is counted anew

    start: int
    _end: int = field(init=False)
    _places: dict[int, int] = field(init=False)
    _counted: Counted = field(init=False)

    def __post_init__(self) -> None:
        self._clear()

    def until(self, tokens: array[int], end: int) -> Counted:
        """Returns the counts of `tokens` [start, end), of which there are none if `end` is not behind `start`."""
        if end < self._end:
            self._clear()
        known, counts = self._counted
        for token, count in Counter(tokens[self._end : end]).items():
            place = self._places.setdefault(token, len(known))
            if place == len(known):
                known.append(token)
                counts.append(0)
            counts[place] += count
        self._end = max(self._end, end)
        return Counted(known[:], counts[:])

    def _clear(self) -> None:
        self._end, self._places, self._counted = self.start, {}, Counted(array("q"), array("d"))
