"""Whether a device idles less where the host puts a step's results down during the next one.

The same engine steps under its driver, by turns with and without that. On a CPU, which cannot compute and do this, the
device is one that sleeps: what a step takes beyond its sleep is the host's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from evals.figures.report import Columns, Row
from model_worker.driver import EngineDriver
from model_worker.engine.bookkeeping.runs import Row as BatchRow
from model_worker.engine.engine import Engine
from model_worker.engine.forward.batch import Batch, batch_order
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.outcome import Outcome
from model_worker.engine.forward.runner import Launched, Runner
from model_worker.engine.forward.sampling import Choices
from model_worker.engine.types import RunRequest
from model_worker.outbox import Piece
from rstitch.v1 import worker_pb2

COLUMNS: Columns = {
    "sessions": "{sessions}",
    "step ms, in between": "{between_ms:.3f}",
    "step ms, overlapped": "{overlapped_ms:.3f}",
    "saved us a step": "{saved_us:.0f}",
}
_STEPS, _ROUNDS, _SLEEP_S = 100, 5, 0.003


class SleepingRunner(Runner):
    """Computes as any runner until it is told to `sleep_s`: from then on a step takes that long and gives one token."""

    sleep_s = 0.0

    @property
    def overlaps(self) -> bool:
        return True

    def launch(self, rows: list[BatchRow], *, captured: bool = True) -> Launched:
        if not self.sleep_s:
            return super().launch(rows, captured=captured)
        rows.sort(key=batch_order)
        num = len(Batch.of(rows, self._limits.page_size).asked)
        until = time.perf_counter() + self.sleep_s

        def read() -> Outcome:
            time.sleep(max(0.0, until - time.perf_counter()))
            nothing = torch.empty(0)
            return Outcome(Choices([7] * num, [0.5] * num, [-1.0] * num), nothing, nothing, range(num), {}, {}, {})

        return Launched(read, None, None)


class TurnableEngine(Engine):
    """An engine whose overlap can be turned off; on a CPU its device sleeps while `asleep`."""

    overlapping = True

    @property
    def overlaps(self) -> bool:
        return self.overlapping and super().overlaps

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Puts the device to sleep, where it is a CPU."""
        if isinstance(self._runner, SleepingRunner):
            self._runner.sleep_s = _SLEEP_S
        yield
        if isinstance(self._runner, SleepingRunner):
            self._runner.sleep_s = 0.0

    def _new_runner(self, loaded: LoadedModel, on_progress: Callable[[int, int], None]) -> Runner:
        kind = Runner if loaded.device.type == "cuda" else SleepingRunner
        return kind(loaded, self.limits, on_progress)


def measured(engine: TurnableEngine, num_sessions: int) -> Row:
    """Times steps of so many sessions both ways in turn; the medians of the rounds."""
    times: dict[bool, list[float]] = {False: [], True: []}
    with engine.asleep():
        for _ in range(_ROUNDS):
            for overlapping in (False, True):
                engine.overlapping = overlapping
                times[overlapping].append(asyncio.run(_step_ms(engine, num_sessions)))
    between, overlapped = median(times[False]), median(times[True])
    saved = median(1000 * (a - b) for a, b in zip(times[False], times[True], strict=True))
    return {"sessions": num_sessions, "between_ms": between, "overlapped_ms": overlapped, "saved_us": saved}


async def _step_ms(engine: TurnableEngine, num_sessions: int) -> float:
    """Lets so many sessions decode side by side, each token told at once; returns a step's milliseconds."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    driver = EngineDriver(engine, failed.set_exception)
    ends: list[asyncio.Future[None]] = []

    def submit(index: int) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def sink(ticket: int, piece: Piece) -> None:
            # What a worker does with it, so that the loop contends for the interpreter as it does there.
            worker_pb2.DecodeResponse(
                tokens=piece.tokens, entropies=piece.entropies, logprobs=piece.logprobs
            ).SerializeToString()
            if piece.end is not None:
                done.set_result(None)

        # Token 0 may end an answer; a run names others for that.
        request = RunRequest(f"{index}", 0, [index + 1], max_tokens=_STEPS, stop_tokens=frozenset({-1}))
        driver.submit(request, sink)
        ends.append(done)

    for index in range(num_sessions):
        submit(index)
    begin = time.perf_counter()
    driver.start()
    waited_for: list[asyncio.Future[Any]] = [asyncio.gather(*ends), failed]
    await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        failed.result()
    elapsed = time.perf_counter() - begin
    for index in range(num_sessions):
        await driver.close_session(f"{index}")
    await driver.stop()
    return 1000 * elapsed / _STEPS
