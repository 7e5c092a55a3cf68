"""Problems in splits: every tiny domain draws its problems without end and tells them apart by a hash.

A problem belongs to exactly one split, by a hash of its `canonical` form, so that no wording of a held-out problem can
reach the training stream. Knows nothing of what a problem is about.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any, Generic, Protocol, TypeVar

SPLITS = ("train", "test", "dev", "calibration")
# Shares of a hundred hash buckets; what is left trains.
_HELD_OUT_BUCKETS = {"test": range(0, 4), "dev": range(4, 6), "calibration": range(6, 8)}
_SPLIT_SEEDS = {"train": 101, "test": 202, "dev": 303, "calibration": 404}


class AnyProblem(Protocol):
    """What all domains' problems have. A domain's `is_correct(text, problem)` judges an answer."""

    @property
    def question(self) -> str:
        """What the user asks."""

    @property
    def steps(self) -> Sequence[Any]:
        """Each is one line of a chain of thought."""

    @property
    def answer(self) -> int | str:
        """The right answer."""

    @property
    def canonical(self) -> str:
        """What two wordings of one problem share."""


P = TypeVar("P", bound=AnyProblem)


@dataclass(frozen=True, slots=True)
class Generator(Generic[P]):
    """Problems of one domain, drawn by `make(rng, hard)`."""

    make: Callable[[random.Random, float], P]

    def split_of(self, problem: P) -> str:
        """The one split that may show this problem."""
        bucket = int(hashlib.sha256(problem.canonical.encode()).hexdigest()[:8], 16) % 100
        return next((split for split, buckets in _HELD_OUT_BUCKETS.items() if bucket in buckets), "train")

    def stream(self, split: str, seed: int = 0, hard: float = 0.0) -> Iterator[P]:
        """Problems of a split without end. Held-out ones never repeat; the first n do not depend on n.

        `hard` is the share of calculations made hard, for practice, in a domain that has such.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
        rng = random.Random(_SPLIT_SEEDS[split] * 1_000_003 + seed)
        seen: set[str] = set()
        while True:
            problem = self.make(rng, hard)
            if self.split_of(problem) != split or problem.canonical in seen:
                continue
            if split != "train":
                seen.add(problem.canonical)
            yield problem

    def problems(self, split: str, n: int, seed: int = 0) -> list[P]:
        return list(islice(self.stream(split, seed), n))

    def check_disjoint(self, n_train: int = 20_000, n_held_out: int = 1_500) -> None:
        """Look, rather than trust the hash: no held-out problem is in the training stream, in whatever words."""
        found = {s: {p.canonical for p in self.problems(s, n_held_out)} for s in SPLITS if s != "train"}
        found["train"] = {p.canonical for p in self.problems("train", n_train)}
        for a, b in combinations(SPLITS, 2):
            if both := found[a] & found[b]:
                raise AssertionError(f"{a} and {b} share problems: {sorted(both)[:3]}")
