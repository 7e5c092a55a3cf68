"""The thread that owns the engine, and how the event loop reaches it.

The loop posts commands and never waits for a forward; the thread posts back what came of them, at most once a step. It
knows nothing of gRPC.

    event loop     submit, cancel, ask ---> commands (queue) ---> engine thread:  take commands -> step -> outbox
                   sink(ticket, piece) <--- call_soon_threadsafe <---------------------------------------------|

Where the device computes by itself, what a step left is sent while it computes the next one, and not in between:

    device     | step n      |       | step n+1         |       | step n+2
    thread      - send n-1 -  commit  - send n -         commit   - send n+1 -
                              launch                     launch
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from model_worker.device_turns import DeviceTurns
from model_worker.engine.bookkeeping.batching import Arrivals, BatchingRule
from model_worker.engine.engine import Engine
from model_worker.engine.errors import EngineError
from model_worker.engine.observing import Observed
from model_worker.engine.types import Event, FinishReason, RunFailed, RunFinished, RunRequest, TokenKept
from model_worker.outbox import Outbox, Piece
from model_worker.spare_cores import SpareCores

T = TypeVar("T")
_ASK_AGAIN_S = 0.0001  # between two tries to get the device; steps take milliseconds
Sink = Callable[[int, Piece], None]


class EngineDriver:
    """Runs an engine in a thread of its own. All public methods are called from the event loop.

    A run is known outside by its ticket. What comes of it goes to the sink that it was submitted with, on the loop, in
    order; the last piece says how it ended, unless the run was cancelled. `on_fatal` is called on the loop with the
    error that ended the thread.
    """

    def __init__(
        self,
        engine: Engine,
        on_fatal: Callable[[BaseException], None],
        flush_s: float = 0.0,  # as in `Outbox`
        batching: BatchingRule | None = None,  # None: every step starts at once
        turns: DeviceTurns | None = None,  # None: the device is this worker's own
        cores: SpareCores | None = None,  # None: its steps take always as many threads
    ) -> None:
        self._engine = engine
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._commands: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._tickets = itertools.count(1)
        self._sinks: dict[int, Sink] = {}  # loop only
        # From here on for the engine's thread only. A ticket exists before its run does: the loop makes it.
        self._run_of: dict[int, int] = {}
        self._known: dict[int, tuple[int, RunRequest]] = {}  # by run: its ticket, what was asked
        self._events: list[Event] = []  # of the last step, not yet in the outbox
        self._outbox = Outbox(flush_s)
        self._batching = batching
        self._turns = turns
        self._cores = cores
        self._arrivals = Arrivals()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after the step that it is in."""
        self._commands.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        if self._turns is not None:
            self._turns.close()
        if self._cores is not None:
            self._cores.close()

    def submit(self, request: RunRequest, sink: Sink) -> int:
        """Posts a run; a refusal comes as RunFailed. Returns its ticket."""
        ticket = next(self._tickets)
        self._sinks[ticket] = sink
        arrived = time.perf_counter()  # here, not when the thread has ended the step that it is in

        def command() -> None:
            try:
                run_id = self._engine.submit(request, arrived)
            except EngineError as error:
                self._put_down()  # first: the run that this one superseded ends before it
                self._outbox.put(ticket, RunFailed(0, error))
                return
            self._run_of[ticket] = run_id
            self._known[run_id] = ticket, request
            if not request.is_background:
                self._arrivals.came(request.session_id, arrived)

        self._commands.put(command)
        return ticket

    def supersede(self, ticket: int) -> None:
        """Ends a run where it stands, with an event. An ended run is left alone."""
        self._commands.put(lambda: self._events.extend(self._engine.supersede(self._run_of.get(ticket, 0))))

    def cancel(self, ticket: int) -> None:
        """Ends a run without an event. An ended run is left alone."""
        self._sinks.pop(ticket, None)

        def command() -> None:
            run_id = self._run_of.pop(ticket, 0)
            self._known.pop(run_id, None)
            self._outbox.drop(ticket)
            self._engine.cancel(run_id)

        self._commands.put(command)

    def leave(self, session_id: str) -> None:
        """Says that a session's stream is over, so that no step is held back for it."""
        self._commands.put(lambda: self._arrivals.forget(session_id))

    async def close_session(self, session_id: str) -> int:
        """Forgets a session, ending its run if one is going on; returns how many tokens it held."""
        done: asyncio.Future[int] = self._loop.create_future()

        def command() -> None:
            held, events = self._engine.close_session(session_id)
            self._loop.call_soon_threadsafe(_settle, done, done.set_result, held)
            self._events += events

        self._commands.put(command)
        return await done

    def drop_session(self, session_id: str) -> None:
        """Forgets a session that is nobody else's, and waits for nothing."""
        self._commands.put(lambda: self._events.extend(self._engine.close_session(session_id)[1]))

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Calls `question` in the engine's thread, between two steps; returns or raises what it does."""
        done: asyncio.Future[T] = self._loop.create_future()

        def command() -> None:
            self._engine.settle()
            try:
                answer = question(self._engine)
            except Exception as error:  # noqa: BLE001 - the asker's error, which must not end the engine's thread
                self._loop.call_soon_threadsafe(_settle, done, done.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(_settle, done, done.set_result, answer)

        self._commands.put(command)
        return await done

    def _work(self) -> None:
        try:
            self._engine.warm_up()
            try:
                self._steps()
            finally:
                self._send()  # what the last step left is true, whatever ended the next
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._on_fatal, error)
            raise

    def _steps(self) -> None:
        """Takes commands and steps until it is told to stop."""
        while True:
            # Sleep only while there is nothing to compute or the step should wait; else take what has come, step.
            wait: float | None = None if self._engine.is_idle else 0.0
            while True:
                try:
                    command = self._commands.get(timeout=wait)
                except queue.Empty:
                    wait = self._hold_back()
                    if wait:
                        continue
                    break
                if command is None:
                    return
                command()
                wait = 0.0
            self._step()

    def _step(self) -> None:
        if self._cores is not None and not self._engine.is_idle:
            self._cores.begin()
        flight = self._engine.launch()
        if self._engine.overlaps:
            self._send()
        self._events += self._engine.wait(flight)
        if self._cores is not None and self._engine.is_idle:
            self._cores.end()
        if self._turns is not None:
            self._turns.end(somebody_waits=self._engine.load.num_rows > 0)
        if self._engine.is_idle or not self._engine.overlaps:
            self._send()

    def _hold_back(self) -> float:
        """Returns how long the step should wait, for a fuller batch or for the device; 0: it starts now."""
        if self._batching is None and self._turns is None:
            return 0.0
        if self._batching is not None:
            self._put_down()  # it wants to know who has left
        now = time.perf_counter()
        load = self._engine.load
        delay = self._batching.delay(now, load, self._arrivals) if self._batching is not None else 0.0
        if not delay and self._turns is not None and not self._turns.begin(not self._engine.is_idle, load.num_rows > 0):
            delay = _ASK_AGAIN_S
        if delay:
            self._send()  # what waits for company would otherwise wait for this delay, too
        elif self._batching is not None and (held := self._batching.started(now)):
            self._engine.counters.num_delayed_steps += 1
            self._engine.counters.delayed_us += int(held * 1e6)
        return delay

    def _send(self) -> None:
        self._put_down()
        pieces = self._outbox.take_due(time.perf_counter())
        if pieces:
            self._loop.call_soon_threadsafe(self._deliver, pieces)

    def _put_down(self) -> None:
        """Puts the last step's events into the outbox under their tickets; forgets runs that ended."""
        self._engine.settle()  # first: events tell times
        events, self._events = self._events, []
        for event in events:
            known = self._known.get(event.run_id)
            if known is None:
                continue
            ticket, request = known
            self._outbox.put(ticket, event)
            if isinstance(event, TokenKept | Observed):
                continue
            del self._known[event.run_id], self._run_of[ticket]
            is_handoff = isinstance(event, RunFinished) and event.reason is FinishReason.HANDOFF
            if is_handoff and not request.is_background:
                self._arrivals.left(request.session_id, time.perf_counter())

    def _deliver(self, pieces: list[tuple[int, Piece]]) -> None:
        for ticket, piece in pieces:
            sink = self._sinks.get(ticket)
            if sink is None:  # cancelled while the step was running
                continue
            if piece.end is not None:
                del self._sinks[ticket]
            sink(ticket, piece)


def _settle(future: asyncio.Future[T], settle: Callable[[Any], None], outcome: object) -> None:
    if not future.done():  # its asker may have been cancelled
        settle(outcome)
