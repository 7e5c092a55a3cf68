"""How questions are split in train, dev and test: shares, or at most so many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from rstitch.errors import invalid


@dataclass(frozen=True, slots=True)
class Split:
    """Shares, or numbers of questions.

    Numbers are shares as well, and a side has at most so many: one that took questions of another's share would test on
    what was trained with once the file has grown. A file of hardly more questions gives a side a few less.
    """

    text: str
    train: float
    dev: float
    test: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `70/10/20` or `0.7/0.1/0.2` (shares) or `500/100/200` (numbers). Raises: RstitchError."""
        remedy = "Write shares, such as 70/10/20, or numbers of questions, such as 500/100/200: train, dev and test."
        try:
            train, dev, test = (float(part) for part in text.split("/"))
        except ValueError:
            raise invalid("--split", f"{text!r} is not three numbers.", remedy) from None
        split = cls(text, train, dev, test)
        if not all(math.isfinite(part) and part >= 0 for part in (train, dev, test)) or not (train and dev):
            raise invalid("--split", f"{text!r} leaves nothing to train with or to choose on.", remedy)
        if split.are_counts and not all(part.is_integer() for part in (train, dev, test)):
            raise invalid("--split", f"{text!r} are no shares of 1 or 100, and no numbers of questions.", remedy)
        return split

    @property
    def are_counts(self) -> bool:
        """Tells numbers from shares, which come to 1 or to 100."""
        return not any(math.isclose(self._sum, whole, rel_tol=1e-6) for whole in (1, 100))

    def side(self, place: float) -> str:
        """The side of a hash in [0, 1). Test comes first: other shares of train and dev leave it as it is."""
        if place < self.test / self._sum:
            return "test"
        return "dev" if place < (self.test + self.dev) / self._sum else "train"

    @property
    def _sum(self) -> float:
        return self.train + self.dev + self.test
