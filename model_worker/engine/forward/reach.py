"""Which keys of its session a token sees in a layer: all up to itself, a window of them, or those of its chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back a layer looks; at most one of the two is set."""

    #   position          0 1 2 3 4 5 6 7 8 9
    #   window of 4                 x x x x       what position 8 sees... from 5 on
    #   chunks of 4                         x x   ... from 8 on, as position 9 does

    window: int = 0  # the last so many keys, its own included; 0: all
    chunk: int = 0  # keys from the last multiple of this on; 0: all

    @property
    def is_limited(self) -> bool:
        return bool(self.window or self.chunk)

    @property
    def most_keys(self) -> int:
        """The most keys that a token sees; 0: as many as there are."""
        return self.window or self.chunk

    def first(self, position: int) -> int:
        """Returns the first position that the token at `position` sees."""
        if self.window:
            return max(0, position - self.window + 1)
        return position // self.chunk * self.chunk if self.chunk else 0

    def firsts(self, positions: np.ndarray) -> np.ndarray:
        """Returns the same for many tokens, int64."""
        begins = np.zeros_like(positions)
        if self.window:
            begins = np.maximum(positions - (self.window - 1), 0)
        elif self.chunk:
            begins = positions // self.chunk * self.chunk
        return begins.astype(np.int64)

    def within(self, context_length: int) -> Reach:
        """Returns this, or a reach over everything if no token of a context so long is kept from any key."""
        return self if 0 < self.most_keys < context_length else Reach()


EVERYTHING = Reach()
