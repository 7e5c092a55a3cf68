"""Ranks as threads of this process: a divided model without the processes, its sums in a fixed order."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_worker.engine.errors import RanksLost
from model_worker.engine.forward.loader import LoadedModel, adopt
from model_worker.engine.ranks.dividing import Division
from model_worker.engine.ranks.engine import RankedEngine
from model_worker.engine.ranks.following import follow
from model_worker.engine.types import Limits
from tests.support.pairs import CONTEXT_LENGTH, VOCAB_SIZE


class Meeting:
    """Where threads meet; `abort` lets all go that wait, or will."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.slots: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=60)
        self.told: list[queue.SimpleQueue[np.ndarray | None]] = [queue.SimpleQueue() for _ in range(size)]
        self.all_told: list[np.ndarray] = []

    def abort(self) -> None:
        self.barrier.abort()
        for each in self.told:
            each.put(None)


class ThreadRanks:
    """As `TorchRanks`, between threads."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size = rank, meeting.size
        self._meeting = meeting

    def sum(self, tensor: Tensor) -> Tensor:
        return torch.stack(self.gather(tensor)).sum(0)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return self._all(tensor.clone())

    def least(self, number: int) -> int:
        return min(self._all(number))

    def tell(self, numbers: np.ndarray) -> None:
        self._meeting.all_told.append(numbers)
        for each in self._meeting.told[1:]:
            each.put(numbers)

    def hear(self) -> np.ndarray:
        numbers = self._meeting.told[self.rank].get(timeout=60)
        if numbers is None:
            raise RanksLost("the test is over")
        return numbers

    def _all(self, own: Any) -> list[Any]:
        try:
            self._meeting.slots[self.rank] = own
            self._meeting.barrier.wait()
            everything = list(self._meeting.slots)
            self._meeting.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise RanksLost("a rank is gone") from error
        return everything


Change = Callable[[int, Any], None]  # of a rank's part of the model


def divided(model: Any, ranks: ThreadRanks, change: Change) -> LoadedModel:
    """The rank's part of a copy of the model, as loading leaves it."""
    own, division = copy.deepcopy(model), Division(ranks)
    with division.turn():
        division.divide(own)
    division.check(own)
    change(ranks.rank, own)
    return adopt(own, CONTEXT_LENGTH)


@contextmanager
def ranked_engine(
    model: Any, size: int, change: Change = lambda rank, part: None, **limits: Any
) -> Iterator[RankedEngine]:
    """An engine of which each rank is a thread. An error of another rank is raised at the end."""
    sizes = replace(Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=128), **limits)
    meeting = Meeting(size)
    failures: list[Exception] = []

    def live(rank: int) -> None:
        ranks = ThreadRanks(rank, meeting)
        try:
            follow(divided(model, ranks, change), sizes, ranks)
        except RanksLost:
            pass
        except Exception as error:  # noqa: BLE001 - raised where the test sees it
            if not meeting.barrier.broken:  # else it only says in its words that the others are gone
                failures.append(error)
            meeting.abort()

    threads = [threading.Thread(target=live, args=(rank,)) for rank in range(1, size)]
    for thread in threads:
        thread.start()
    try:
        ranks = ThreadRanks(0, meeting)
        yield RankedEngine(divided(model, ranks, change), sizes, ranks)
    finally:
        meeting.abort()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
