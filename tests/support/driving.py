"""Drives an engine as a worker does: in a thread of its own, from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from model_worker.device_turns import DeviceTurns
from model_worker.driver import EngineDriver
from model_worker.engine.bookkeeping.batching import BatchingRule
from model_worker.engine.engine import Engine
from model_worker.engine.types import RunFinished, RunRequest
from model_worker.outbox import Piece
from model_worker.spare_cores import SpareCores

Run = Callable[[RunRequest], Coroutine[Any, Any, tuple[list[int], RunFinished]]]


@asynccontextmanager
async def driving(
    engine: Engine,
    batching: BatchingRule | None = None,
    turns: DeviceTurns | None = None,
    cores: SpareCores | None = None,
) -> AsyncIterator[tuple[EngineDriver, Run]]:
    """A driver and a way to run something to its end."""

    def on_fatal(error: BaseException) -> None:
        raise AssertionError("the engine's thread died") from error

    driver = EngineDriver(engine, on_fatal, batching=batching, turns=turns, cores=cores)

    async def run(request: RunRequest) -> tuple[list[int], RunFinished]:
        tokens: list[int] = []
        done: asyncio.Future[RunFinished] = asyncio.get_running_loop().create_future()

        def sink(ticket: int, piece: Piece) -> None:
            tokens.extend(piece.tokens)
            if piece.end is not None:
                assert isinstance(piece.end, RunFinished)
                done.set_result(piece.end)

        driver.submit(request, sink)
        return tokens, await done

    driver.start()
    yield driver, run
    await driver.ask(Engine.check_integrity)
    await driver.stop()
