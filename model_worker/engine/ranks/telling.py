"""What rank 0 tells the others, as one array of numbers: a step, pages to zero, pages to copy.

A step is told by all that the forward of its rows takes: their tokens, their places, their pages, and after how many
tokens a distribution is asked for. What becomes of these is rank 0's business alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.types import Returns, RunRequest

#   step    0, captured, rows, then of each row:
#           start, tokens, distributions, contiguous, pages, the pages (the first alone where each follows it), the ids
#   wipe    1, the pages
#   copy    2, pairs of pages: to, from
_STEP, _WIPE, _COPY = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Step:
    """Rows to compute, in the order of their batch."""

    rows: Sequence[Row]
    captured: bool


@dataclass(frozen=True, slots=True)
class Wipe:
    """Pages that were spoilt and are zeroed before anything else reads them."""

    pages: Sequence[int]


@dataclass(frozen=True, slots=True)
class Copy:
    """Pages to copy: the one that is written by the one that is read."""

    pages: Mapping[int, int]


Told = Step | Wipe | Copy


def packed(told: Told) -> np.ndarray:
    """Returns what is told as int32."""
    if isinstance(told, Wipe):
        return np.array([_WIPE, *told.pages], dtype=np.int32)
    if isinstance(told, Copy):
        return np.array([_COPY, *(page for pair in told.pages.items() for page in pair)], dtype=np.int32)
    numbers: list[int] = [_STEP, told.captured, len(told.rows)]
    for row in told.rows:
        session, end = row.run.session, row.start + row.num_tokens
        numbers += (row.start, row.num_tokens, row.num_asked, session.contiguous, len(session.pages))
        numbers += session.pages[:1] if session.contiguous else session.pages
        numbers += session.tokens[row.start : end]
    return np.array(numbers, dtype=np.int32)


def unpacked(numbers: np.ndarray) -> Told:
    """Returns what `packed` was given; rows of a step have sessions and runs that only a forward can use."""
    kind, *rest = numbers.tolist()
    if kind == _WIPE:
        return Wipe(rest)
    if kind == _COPY:
        return Copy(dict(zip(rest[::2], rest[1::2], strict=True)))
    captured, num_rows, *rest = rest
    rows, at = [], 0
    for _ in range(num_rows):
        row, at = _row(rest, at)
        rows.append(row)
    return Step(rows, bool(captured))


def _row(numbers: list[int], at: int) -> tuple[Row, int]:
    """Returns the row that begins `at` a place, and where the next one does."""
    start, num_tokens, num_asked, contiguous, num_pages = numbers[at : at + 5]
    at += 5
    session = Session("told", contiguous=bool(contiguous))
    if contiguous:
        session.pages = list(range(numbers[at], numbers[at] + num_pages))
        at += 1
    else:
        session.pages = numbers[at : at + num_pages]
        at += num_pages
    session.tokens = array("I", bytes(start * session.tokens.itemsize))  # which no row reads
    session.tokens.extend(numbers[at : at + num_tokens])
    request = RunRequest("told", 0, (), returns=Returns() if num_asked else None)
    run = Run(0, request, session, draft=(0,) * (num_asked - 1))
    return Row(run, start, num_tokens, is_last=num_asked > 0), at + num_tokens
