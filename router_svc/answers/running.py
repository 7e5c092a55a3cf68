"""An answer being written in this router: the task that no call can cancel, from the claim to the last line of its log.

It joins loop, journal, trace and readers, and gives everything back however the answer ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import grpc
import structlog

from router_svc.answers import refusals
from router_svc.answers.assembly import Writing
from router_svc.trajectory.errors import Fenced
from router_svc.trajectory.session_names import facts_of
from router_svc.trajectory.types import Finished, FinishReason
from rstitch.errors import RstitchError
from rstitch.service.failures import internal

_log = structlog.get_logger(__name__)
# Marking an answer as interrupted is tried so long; whoever wants to go on with it can do so without the mark, later.
_RELEASE_PATIENCE_S = 2.0
# Readers are told of the end at most so much later for the quota's Redis: whoever has read an answer may ask for the
# next one of any router, unless Redis is slow.
_SETTLE_PATIENCE_S = 0.1
# The most to wait for a worker to drop what it wrote beyond the answer; the store has mostly taken longer than that.
_TIDY_PATIENCE_S = 0.5
# Whoever asked gets at least so long to begin reading.
_MIN_ARRIVAL_S = 1.0


class RunningAnswer:
    """One answer being written. Its task starts at once.

    Args:
        detach_grace_s: the answer is interrupted when nobody has read it for this long; one that is to stop without
            readers, as soon as the last of them has left.
        on_end: called last, with how it ended and whether the store may still think that it runs.
    """

    def __init__(
        self,
        writing: Writing,
        detach_grace_s: float,
        on_end: Callable[[RunningAnswer, Finished | RstitchError, bool], None],
    ) -> None:
        self.name = writing.name
        self.trace = writing.trace
        self.bound = writing.bound
        self.log = log = writing.log
        self._writing = writing
        self._journal = writing.journal
        self._accounting = writing.accounting
        self._detach_grace_s = detach_grace_s
        self._on_end = on_end
        self._stop: RstitchError | None = None
        self._leave: asyncio.TimerHandle | None = None
        self._loop_task: asyncio.Task[FinishReason] | None = None
        log.on_reader = self._reader_came
        log.on_deserted = self._deserted
        self._journal.on_cancelled = self.cancel
        self._leave_after(max(detach_grace_s, _MIN_ARRIVAL_S))  # the caller may be gone already
        self.task = asyncio.create_task(self._main(), name=f"generation-{self.name}")

    def interrupt(self, error: RstitchError) -> None:
        """Ends it cleanly: what is written is stored, the trajectory is free, readers get `error`."""
        if self._stop is None:
            self._stop = error
            if self._loop_task is not None:
                self._loop_task.cancel()

    def cancel(self) -> None:
        """Ends it because somebody wants so; those who wait for `task` then find out how it ended."""
        self.interrupt(refusals.cancelled(self.name))

    def look(self) -> None:
        """Finds out, soon, whether the session was cancelled, deleted or taken over elsewhere, should that be new."""
        self._journal.look()

    async def _main(self) -> None:
        structlog.contextvars.bind_contextvars(**facts_of(self.name))
        stale = False
        try:
            outcome: Finished | RstitchError = await self._outcome()
        except RstitchError as error:
            outcome = error
            await self._leave_workers()  # before the store, which may be slow: others wait for them
            stale = not isinstance(error, Fenced) and not await self.release()
        except Exception as error:  # noqa: BLE001 - a bug of ours must end as an answer's error, not as silence
            await self._leave_workers()
            outcome, stale = internal(error, "generation failed"), not await self.release()
        finally:
            if self._leave is not None:
                self._leave.cancel()
            settling = self._writing.admission.end()
            await self._leave_workers()
        if settling is not None:
            await asyncio.wait({settling}, timeout=_SETTLE_PATIENCE_S)
        self._writing.trace.end(outcome)
        self._say(outcome)
        self.log.on_reader = self.log.on_deserted = None
        self._on_end(self, outcome, stale)
        self.log.end(outcome)
        if settling is not None:
            await settling

    async def _outcome(self) -> Finished:
        """Runs the loop beside the journal; whichever fails first ends both."""
        self._loop_task = asyncio.create_task(self._writing.loop.run())
        if self._stop is not None:
            self._loop_task.cancel()
        await asyncio.wait({self._loop_task, self._journal.task}, return_when=asyncio.FIRST_COMPLETED)
        if self._journal.task.done():
            self._loop_task.cancel()
            await asyncio.wait({self._loop_task})
            self._journal.task.result()
        try:
            reason = await self._loop_task
        except asyncio.CancelledError:
            assert self._stop is not None, "only interrupt cancels the loop"
            raise self._stop from None
        await self._journal.close()
        self._accounting.end()
        await self._journal.finish(reason, self._accounting.usage)
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIDY_PATIENCE_S):
                await asyncio.gather(*(worker.tidied() for worker in self._writing.workers.values()))
        return Finished(reason, self._accounting.usage.copy(), self._journal.length)

    async def _leave_workers(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self._writing.workers.values()))
        await self.bound.settle()

    async def release(self) -> bool:
        """Stores what is left and marks the trajectory as interrupted; False if that is worth another try later."""
        try:
            await self._journal.interrupt(_RELEASE_PATIENCE_S)
        except Fenced:
            return True
        except RstitchError as failure:
            _log.warning("answer not marked as interrupted", error=str(failure), **facts_of(self.name))
            return failure.code is not grpc.StatusCode.UNAVAILABLE
        return True

    def _reader_came(self) -> None:
        if self._leave is not None:
            self._leave.cancel()
            self._leave = None

    def _deserted(self) -> None:
        self._reader_came()
        if self.log.settings.stops_unread:
            self.interrupt(refusals.left())
        else:
            self._leave_after(self._detach_grace_s)

    def _leave_after(self, delay_s: float) -> None:
        self._leave = asyncio.get_running_loop().call_later(delay_s, self._abandon)

    def _abandon(self) -> None:
        self.interrupt(refusals.abandoned(self._detach_grace_s))

    def _say(self, outcome: Finished | RstitchError) -> None:
        usage = self._accounting.usage
        facts = {
            "length": self._journal.length,
            "slm_tokens": usage.num_slm_tokens,
            "llm_tokens": usage.num_llm_tokens,
            "switches": usage.num_switches,
            "total_ms": usage.total_time_us // 1000,
        }
        if isinstance(outcome, RstitchError):
            _log.warning("answer interrupted", reason=outcome.reason, error=str(outcome), **facts)
        else:
            _log.info("answer finished", reason=outcome.reason.name.lower(), **facts)
