"""Which shapes of steps are captured: how much each has room for, and what batches fit. It captures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.forward.batch import Batch
from model_worker.engine.types import Limits, Returns, RunRequest

DECODE_SIZES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 256)
EXTEND_SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
# Rows and tokens are bounded apart in the longer extends: a kernel has programs for each pair of row and block of
# queries, most of them empty, if every token may be a row. Few rows are what a prompt or catch-up alone makes, many are
# decode rows beside a chunk of a prompt.
_FEW_ROWS, _MANY_ROWS = 16, 64
# A longer extend computes the LM head where it is asked for alone; up to this many tokens the head costs its weights,
# which are read once whatever the number of tokens.
_HEAD_EVERYWHERE = 128


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a captured step has room for. Shapes sort by what a step of them costs."""

    num_tokens: int
    num_asked: int  # distributions: after each token, after so many chosen ones, or none: then there is no LM head
    max_queries: int  # tokens of the longest row; 1: a decode step
    num_rows: int

    @property
    def gathers(self) -> bool:
        """Whether the distributions are those after chosen tokens."""
        return 0 < self.num_asked < self.num_tokens

    def fits(self, batch: Batch) -> bool:
        return (
            batch.num_tokens <= self.num_tokens
            and len(batch.asked) <= self.num_asked
            and len(batch.rows) <= self.num_rows
            and (self.max_queries > 1 or batch.is_decode)
        )

    def filler_length(self, limits: Limits) -> int:
        """Returns the most tokens of a row that fills up what a batch leaves."""
        return min(self.max_queries, limits.page_size, limits.context_length)

    def num_table_rows(self, limits: Limits) -> int:
        """Returns the number of rows with fillers: in a decode step they take the place of rows, else they are more."""
        return self.num_rows + (-(-self.num_tokens // self.filler_length(limits)) if self.max_queries > 1 else 0)


def shapes_for(limits: Limits) -> list[Shape]:
    """Returns the shapes for all batches that an engine with these limits can form, the cheapest first.

    A batch has at most `max_batch_tokens` tokens, and each of its rows a page: no shape is beyond what is needed for
    that, so a worker with small limits captures little. Batches of more than the largest sizes are run uncaptured.
    """
    most_rows = min(limits.max_batch_tokens, limits.num_pages)
    shapes = {Shape(size, size, 1, size) for size in _up_to(most_rows, DECODE_SIZES)}
    for size in _up_to(limits.max_batch_tokens, EXTEND_SIZES):
        few, many = (min(size, rows, most_rows) for rows in (_FEW_ROWS, _MANY_ROWS))
        asked = size if size <= _HEAD_EVERYWHERE else _MANY_ROWS
        # Up to 64 tokens one shape is for few and many: the empty programs are few then.
        shapes |= {Shape(size, asked, size, many), Shape(size, 0, size, few)}
        if size > _MANY_ROWS:
            shapes.add(Shape(size, asked, size, few))
    return sorted(shapes)


def _up_to(bound: int, sizes: Sequence[int]) -> Iterable[int]:
    """Returns the sizes below `bound` and the first that is not."""
    return [size for index, size in enumerate(sizes) if index == 0 or sizes[index - 1] < bound]


def trial_batch(shape: Shape, limits: Limits) -> Batch:
    """Returns a batch that fits the shape, on the first pages of the cache, which no session has at the start.

    Decode rows read keys before their own, rows of several tokens attend to each other's; nothing fills the shape up
    wholly, so fillers are tried as well, except where the shape has one token.
    """
    longest = min(limits.page_size, limits.context_length)
    # A page each, in layers that see a window only, too: no two rows may write to one place.
    most_rows = min(shape.num_rows, limits.num_window_pages or limits.num_pages)
    if shape.max_queries == 1:
        num_rows, count, start = max(1, most_rows - 1), 1, min(5, longest - 1)
    else:
        num_rows = min(3, most_rows)
        count, start = max(1, min((shape.num_tokens - 1) // num_rows, longest)), 0
    rows = []
    for index in range(num_rows):
        session = Session("trial")
        session.tokens.extend((7 * (index + place) + 3) % limits.vocab_size for place in range(start + count))
        session.pages.append(index)
        request = RunRequest("trial", 0, (), returns=Returns() if shape.num_asked else None)
        rows.append(Row(Run(0, request, session), start, count, is_last=True))
    return Batch.of(rows, limits.page_size)
