"""What runs have told and their callers have not been given yet.

Every delivery wakes the event loop, which contends with the forward for the interpreter, and costs each process behind
it a message. So a run's first token and its end go out at once, and what is between in pieces of a few milliseconds. It
knows no thread and no loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from model_worker.engine.types import Event, RunFailed, RunFinished, TokenKept


@dataclass(slots=True)
class Piece:
    """Some of a run: kept tokens, and at its end how it ended."""

    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    uncertainties: list[float] = field(default_factory=list)  # empty where the signal is the entropy
    end: RunFinished | RunFailed | None = None


class Outbox:
    """Pieces of runs by ticket, in order.

    Args:
        flush_s: the longest that a token waits for others; 0: not at all.
    """

    def __init__(self, flush_s: float) -> None:
        self._flush_s = flush_s
        self._flushed = 0.0  # when nothing was left waiting
        self._waiting: dict[int, Piece] = {}
        self._urgent: list[int] = []
        self._told: set[int] = set()  # runs whose first token is out

    def put(self, ticket: int, event: Event) -> None:
        """Takes what came of a run."""
        piece = self._waiting.get(ticket)
        if piece is None:
            piece = self._waiting[ticket] = Piece()
        if isinstance(event, TokenKept):
            piece.tokens.append(event.token)
            piece.entropies.append(event.entropy)
            piece.logprobs.append(event.logprob)
            if event.uncertainty is not None:
                piece.uncertainties.append(event.uncertainty)
            if ticket not in self._told:
                self._told.add(ticket)
                self._urgent.append(ticket)
        else:
            piece.end = event
            self._told.discard(ticket)
            self._urgent.append(ticket)

    def drop(self, ticket: int) -> None:
        """Nobody asks for this run any more."""
        self._waiting.pop(ticket, None)
        self._told.discard(ticket)

    def due(self, now: float) -> list[tuple[int, Piece]]:
        """What must go out now, by time.perf_counter(); it is out then."""
        waiting = self._waiting
        if not waiting:
            return []
        if now - self._flushed >= self._flush_s:
            self._waiting, due = {}, list(waiting.items())
        else:
            due = [(ticket, waiting.pop(ticket)) for ticket in dict.fromkeys(self._urgent) if ticket in waiting]
        self._urgent.clear()
        if not self._waiting:
            self._flushed = now
        return due
