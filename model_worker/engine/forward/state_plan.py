"""In which order the rows of a batch go through a layer with states, and how many at once. It knows no torch.

A row stops wherever its session may want to come back to: there a state is stored (`SavedState`), and the row goes on
from it. All that stops at its last token does so together, in one call for the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model_worker.engine.bookkeeping.runs import Row

# A stretch of so many tokens goes token by token, beside those of other rows: models compute several tokens in chunks,
# of 64 and more, and pad what is shorter.
SHORT = 8


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens of one row that go through a layer in one call."""

    first: int  # its first token's place in the batch
    num_tokens: int
    source: int | None  # the slot of the states that it goes on from; None: it begins a session
    target: int  # the slot of the states that it leaves


@dataclass(frozen=True, slots=True)
class Call:
    """Stretches of one length, which go through a layer as the rows of one batch."""

    stretches: Sequence[Stretch]

    @property
    def num_tokens(self) -> int:
        """Number of tokens of each."""
        return self.stretches[0].num_tokens

    @property
    def is_fresh(self) -> bool:
        """Whether they begin their sessions."""
        return self.stretches[0].source is None

    @property
    def tokens(self) -> list[int]:
        """The places of its tokens in the batch."""
        return [place for each in self.stretches for place in range(each.first, each.first + each.num_tokens)]


def plan(placed: Sequence[tuple[int, Row]], scratch: int, *, chunks: bool = True) -> list[Call]:
    """Returns the calls, in order, for rows that come with the place of their first token.

    A row whose session has no slots leaves its states in slot `scratch`. Without `chunks` a row goes on from a state
    token by token, and only sessions begin with many.
    """
    # Rows s and t decode, u verifies a draft of 2, v is a prompt's last chunk. They are aligned at their ends:
    #
    #   s                        | 1         calls: [v: many]
    #   t                        | 1                [u: its first]
    #   u              1 |     1 | 1                [u: its second]
    #   v        many            | 1                [s t u v]
    calls: dict[tuple[int, int, bool], list[Stretch]] = {}
    for first, row in placed:
        stretches = list(_stretches(first, row, scratch, chunks=chunks))
        for place, stretch in enumerate(stretches):
            key = (place - len(stretches), stretch.num_tokens, stretch.source is None)
            calls.setdefault(key, []).append(stretch)
    return [Call(calls[key]) for key in sorted(calls)]


def _stretches(first: int, row: Row, scratch: int, *, chunks: bool) -> Iterator[Stretch]:
    states = {state.position: state.slot for state in row.run.session.states}
    start, end = row.start, row.start + row.num_tokens
    assert start == 0 or start in states, "a row that begins where there is no state"
    last, source = states.get(end, scratch), states[start] if start else None
    for stop in sorted({position for position in states if start < position < end} | {end}):
        is_short = stop - start <= SHORT or not (chunks or source is None)
        size = 1 if is_short else stop - start
        while start < stop:
            target = states.get(start + size, last)
            yield Stretch(first + start - row.start, size, source, target)
            start, source = start + size, target
