"""One forward's rows as flat lists of numbers; no torch. What a row reads is the attention's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from model_worker.engine.bookkeeping.scheduler import Row


def batch_order(row: Row) -> tuple[bool, bool, int]:
    """Sort key of a batch's rows: of one token first, those in one piece first, by place in the cache."""
    session = row.run.session
    return row.num_tokens > 1, not session.contiguous, session.pages[0]


@dataclass(slots=True)
class Batch:
    """Rows side by side.

    Attributes:
        rows: in `batch_order`.
        ids, positions, slots: one per token: its id, its position, where its keys and values go.
        asked: the row of each distribution that is asked for: one of a row, or as many as its draft needs.
        wanted: index of the token that it comes after.
    """

    rows: Sequence[Row]
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    asked: list[Row] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Sequence[Row], page_size: int) -> Batch:
        """The batch of rows that are in `batch_order` and have their pages."""
        batch = cls(rows)
        for row in rows:
            session, end = row.run.session, row.start + row.num_tokens
            batch.ids.extend(session.tokens[row.start : end])
            for position in range(row.start, end):
                batch.positions.append(position)
                batch.slots.append(session.pages[position // page_size] * page_size + position % page_size)
            if row.is_last and (num_asked := row.run.num_asked):
                batch.asked.extend([row] * num_asked)
                batch.wanted.extend(range(len(batch.ids) - num_asked, len(batch.ids)))
        return batch

    @property
    def num_tokens(self) -> int:
        """Of all rows."""
        return len(self.ids)

    @property
    def is_decode(self) -> bool:
        """Whether every row is one token."""
        return len(self.ids) == len(self.rows)
