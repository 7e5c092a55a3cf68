"""One forward's rows as flat lists of numbers; no torch. What a row reads is the attention's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from model_worker.engine.bookkeeping.masks import Mask
from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.errors import EngineError


def batch_order(row: Row) -> tuple[bool, bool, int]:
    """Returns a sort key: single tokens first, among them sessions in one piece first, by place in the cache."""
    # Attention reads neighbours of this order with one call where they are equally far from each other.
    session = row.run.session
    return row.num_tokens > 1, not session.contiguous, session.pages[0]


@dataclass(slots=True)
class Batch:
    """The tokens of all rows as one sequence, without padding."""

    # Three rows: s decodes at position 9, t verifies a draft of 2 from position 5 on, u is a chunk of a prompt.
    #
    #   token       0      1    2    3      4    5    6    7
    #   row         s      t    t    t      u    u    u    u
    #   positions   9      4    5    6      0    1    2    3
    #   wanted      0      1    2    3                            asked  s t t t

    rows: Sequence[Row]  # in `batch_order`
    ids: list[int] = field(default_factory=list)  # of each token, as are its position and its slot
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)  # where its keys and values go
    asked: list[Row] = field(default_factory=list)  # by distribution asked for; a draft of d tokens asks for d + 1
    wanted: list[int] = field(default_factory=list)  # the token that each of these distributions comes after
    placed: list[tuple[int, Row]] = field(default_factory=list)  # each row after the place of its first token
    unasked: list[tuple[int, Row]] = field(default_factory=list)  # of these those that ask for no distribution
    masked: dict[Mask, list[int]] = field(default_factory=dict)  # which of these distributions are masked
    bound: list[tuple[range, Row]] = field(default_factory=list)  # likewise those of rows that are held to a grammar
    stuck: dict[int, EngineError] = field(default_factory=dict)  # of these, after which no token may come, and why

    @classmethod
    def of(cls, rows: Sequence[Row], page_size: int) -> Batch:
        """Returns the batch of rows that are in `batch_order` and have their pages."""
        batch = cls(rows)
        for row in rows:
            session, end = row.run.session, row.start + row.num_tokens
            batch.ids.extend(session.tokens[row.start : end])
            for position in range(row.start, end):
                batch.positions.append(position)
                batch.slots.append(session.pages[position // page_size] * page_size + position % page_size)
            batch.placed.append((len(batch.ids) - row.num_tokens, row))
            if num_asked := row.num_asked:
                places = range(len(batch.asked), len(batch.asked) + num_asked)
                if row.run.mask is not None:
                    batch.masked.setdefault(row.run.mask, []).extend(places)
                if row.run.request.grammar is not None:
                    batch.bound.append((places, row))
                batch.asked.extend([row] * num_asked)
                batch.wanted.extend(range(len(batch.ids) - num_asked, len(batch.ids)))
            else:
                batch.unasked.append(batch.placed[-1])
        return batch

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def is_decode(self) -> bool:
        return len(self.ids) == len(self.rows)
