"""Observing given tokens, from a caller's view: a session of its own that nothing is left of. It knows no messages."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace

from model_worker.driver import EngineDriver
from model_worker.engine.observing import Observed
from model_worker.engine.types import FinishReason, RunFailed, RunFinished, RunRequest
from model_worker.outbox import Piece


async def observed(driver: EngineDriver, run: RunRequest) -> AsyncGenerator[Observed]:
    """Yields what an observing run is told, step by step; raises the EngineError that it is refused or ends with.

    It takes what room others leave. Where they leave too few pages, the rest is asked for as any run is.
    """
    observe = run.observe
    assert observe is not None
    pieces: asyncio.Queue[Piece] = asyncio.Queue()
    run, position, ticket = replace(run, session_id=f"observe/{uuid.uuid4().hex}"), observe.start, 0
    try:
        for background in (True, False):
            rest = replace(run, background=background, observe=replace(observe, start=position))
            ticket = driver.submit(rest, lambda _, piece: pieces.put_nowait(piece))
            end: RunFinished | RunFailed | None = None
            while end is None:
                piece = await pieces.get()
                for event in piece.observed:
                    position += event.num_positions
                    yield event
                end = piece.end
            if isinstance(end, RunFailed):
                raise end.error
            if end.reason is FinishReason.STEP:
                return
    finally:
        driver.cancel(ticket)
        driver.drop_session(run.session_id)
