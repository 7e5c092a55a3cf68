"""Observing given tokens, from a caller's view: a session of its own that nothing is left of. It knows no messages."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from model_worker.driver import EngineDriver
from model_worker.engine.errors import HeldTooShort
from model_worker.engine.observing import MAX_OBSERVED, Observed
from model_worker.engine.types import FinishReason, RunFailed, RunFinished, RunRequest, Timing
from model_worker.outbox import Piece

# So many positions are looked at before the first of them is taken: the engine waits for nobody, and what it has told
# lies in memory until it is taken, a hidden state for each position.
_AHEAD = 2 * MAX_OBSERVED


async def observed(
    driver: EngineDriver, run: RunRequest, timed: Callable[[Timing], None] | None = None
) -> AsyncGenerator[Observed]:
    """Yields what an observing run is told, step by step; raises the EngineError that it is refused or ends with.

    `timed` is told where the time of each slice went.

    It is asked for in slices, the next one once the last one was taken; in between the session keeps what is computed,
    unless others need the room. It takes what room others leave. Where they leave too few pages, the rest is asked for
    as any run is.
    """
    observe = run.observe
    assert observe is not None
    pieces: asyncio.Queue[Piece] = asyncio.Queue()
    run = replace(run, session_id=f"observe/{uuid.uuid4().hex}", background=True)
    position, held, ticket = observe.start, 0, 0
    try:
        while held < len(run.tokens):
            until = min(position - 1 + _AHEAD, len(run.tokens))
            part = run.tokens[held:until]
            some = replace(run, position=held, tokens=part, observe=replace(observe, start=position))
            ticket = driver.submit(some, lambda _, piece: pieces.put_nowait(piece))
            end: RunFinished | RunFailed | None = None
            while end is None:
                piece = await pieces.get()
                for event in piece.observed:
                    position += event.num_positions
                    yield event
                end = piece.end
            if isinstance(end, RunFinished) and timed is not None:
                timed(end.timing)
            if isinstance(end, RunFailed):
                if not isinstance(end.error, HeldTooShort):
                    raise end.error
                held = 0  # it was evicted in between
            elif end.reason is FinishReason.STEP:
                held = until
            elif run.background:
                run, held = replace(run, background=False), 0
            else:
                return
    finally:
        driver.cancel(ticket)
        driver.drop_session(run.session_id)
