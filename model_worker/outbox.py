"""Tokens and ends of runs that their callers have not been given yet.

Every delivery wakes the event loop, which contends with the forward for the interpreter, and costs each process behind
it a message. So a run's first token and its end go out at once, and what is between in pieces of a few milliseconds;
where many runs share the processes behind, in wider ones. It knows no thread and no loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from model_worker.engine.observing import Observed
from model_worker.engine.types import Alternatives, Event, RunFailed, RunFinished, TokenKept, Verdict

# Up to so many runs a token waits `flush_s`; beyond, so much longer that messages do not become more frequent. Not for
# ever: a person reads along.
_RUNS_AT_FULL_RATE = 32
_MAX_STRETCH = 4.0


@dataclass(slots=True)
class Piece:
    """A stretch of a run: the tokens kept or observed since the last piece, and in the last one how the run ended."""

    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    uncertainties: list[float] = field(default_factory=list)  # empty where the signal is the entropy
    alternatives: list[Alternatives] = field(default_factory=list)  # empty where none are asked for
    # In order, of which token: those that were kept, and in the last piece the one that was handed over.
    verdicts: list[tuple[int, Verdict]] = field(default_factory=list)
    observed: list[Observed] = field(default_factory=list)
    end: RunFinished | RunFailed | None = None


@dataclass(slots=True, eq=False)
class Outbox:
    """Collects a piece for each run, until it must go out."""

    flush_s: float  # the longest that a token waits for others, among few runs; 0: not at all
    _flushed: float = 0.0  # when everything that waited had last gone out
    _waiting: dict[int, Piece] = field(default_factory=dict)
    _urgent: list[int] = field(default_factory=list)
    _begun: set[int] = field(default_factory=set)  # runs that have a token out or urgent

    def put(self, ticket: int, event: Event) -> None:
        """Adds an event to its run's piece; a first token and an end are urgent."""
        piece = self._waiting.get(ticket)
        if piece is None:
            piece = self._waiting[ticket] = Piece()
        if isinstance(event, TokenKept):
            piece.tokens.append(event.token)
            piece.entropies.append(event.entropy)
            piece.logprobs.append(event.logprob)
            if event.uncertainty is not None:
                piece.uncertainties.append(event.uncertainty)
            if event.alternatives is not None:
                piece.alternatives.append(event.alternatives)
            if event.verdict is not None:
                piece.verdicts.append((event.token, event.verdict))
            if ticket not in self._begun:
                self._begun.add(ticket)
                self._urgent.append(ticket)
        elif isinstance(event, Observed):
            piece.observed.append(event)
        else:
            if isinstance(event, RunFinished) and event.verdict is not None and event.proposal is not None:
                piece.verdicts.append((event.proposal.token, event.verdict))
            piece.end = event
            self._begun.discard(ticket)
            self._urgent.append(ticket)

    def drop(self, ticket: int) -> None:
        """Forgets a run whose caller has left."""
        self._waiting.pop(ticket, None)
        self._begun.discard(ticket)

    def take_due(self, now: float) -> list[tuple[int, Piece]]:
        """Returns the pieces that must go out at `now` (time.perf_counter()), and forgets them."""
        waiting = self._waiting
        if not waiting:
            return []
        stretch = min(max(1.0, len(self._begun) / _RUNS_AT_FULL_RATE), _MAX_STRETCH)
        if now - self._flushed >= self.flush_s * stretch:
            self._waiting, due = {}, list(waiting.items())
        else:
            due = [(ticket, waiting.pop(ticket)) for ticket in dict.fromkeys(self._urgent) if ticket in waiting]
        self._urgent.clear()
        if not self._waiting:
            self._flushed = now
        return due
