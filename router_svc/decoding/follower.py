"""Follows the writer's run to its end, keeps the other model caught up beside it, and recovers from what fails.

It decides nothing: what to run and what to do with its tokens, the loop says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from router_svc.decoding.answer import Answer
from router_svc.decoding.recovery import Recovery
from router_svc.observers.trace import GenerationTrace
from router_svc.trajectory.types import Model
from router_svc.workers.accounting import Accounting
from router_svc.workers.runs import PendingRun, Reply, RunFinish
from router_svc.workers.session import WorkerSession
from rstitch.errors import RstitchError


class Follower:
    """One answer's runs, one at a time.

    Attributes:
        workers: both models' sides of the session.
    """

    def __init__(
        self,
        answer: Answer,
        workers: Mapping[Model, WorkerSession],
        recovery: Recovery,
        trace: GenerationTrace,
        accounting: Accounting,
    ) -> None:
        self.workers = workers
        self._answer = answer
        self._recovery = recovery
        self._trace = trace
        self._accounting = accounting

    async def run(
        self,
        writer: Model,
        start: Callable[[WorkerSession], Awaitable[PendingRun]],
        take: Callable[[Reply], bool],
    ) -> RunFinish | None:
        """Starts a run of `writer` and follows it to its end.

        Args:
            take: gets the tokens as they come; returns whether the rest is not wanted.
        Returns: how it ended; None if `take` cut it short, or if it failed and another try is worth it.
        Raises: RstitchError when no try is worth it any more; what is kept stays kept.
        """
        worker = self.workers[writer]
        # A worker that came back may be another process with an empty cache, or another model.
        if worker.is_lost:
            await self._recovery.before(writer)
            await worker.mark_found()
        run = await start(worker)
        self._trace.add_catch_up(run.num_sent)
        began = since = self._accounting.run_begins()
        try:
            while True:
                reply = await run.next()
                since = self._accounting.waited_for_model(writer, since)
                # Taken before anything is awaited: a token that came is part of the answer or was refused.
                if reply.tokens and take(reply):
                    self._end_run(worker, await worker.cut_short(run, self._answer.traceparent), began)
                    return None
                if reply.finish is not None:
                    self._end_run(worker, reply.finish, began)
                    return reply.finish
                # Time in which the store was waited for is not the model's.
                began += await self._answer.wait_for_room()
                await self.catch_up(writer.other)
        except RstitchError as error:
            # What the run kept is part of the answer already, so the next round simply begins after it.
            worker.account_failure(run, error)
            await self._recovery.after(writer, error)
            await worker.mark_found()
            self._accounting.waited_for_model(writer, since)
            self._accounting.run_is_over()
            return None

    def keep(self, writer: Model, reply: Reply, *, is_proposal: bool = False) -> bool:
        """Keeps tokens that `writer` wrote. Returns whether a stop string is complete.

        Args:
            is_proposal: the worker has dropped it.
        """
        stopped = self._answer.keep(writer, reply, None if is_proposal else self.workers[writer])
        self._recovery.progress()
        return stopped

    def note_progress(self) -> None:
        """Something was decoded to its end: the patience with failures begins anew."""
        self._recovery.progress()

    async def catch_up(self, model: Model) -> None:
        """Feeds the model that waits, in the background, so that a switch costs a decode step and not a prefill."""
        if self._answer.policy.may_still_write(model, self._answer.history):
            await self.workers[model].catch_up(self._answer.traceparent)

    def finish(self) -> None:
        """The answer is complete: both workers drop what is not part of it."""
        for worker in self.workers.values():
            worker.finish(self._answer.traceparent)

    def _end_run(self, worker: WorkerSession, finish: RunFinish | None, began: float) -> None:
        """A run that decodes is over; `finish` is None where the worker did not say how."""
        self._accounting.run_is_over()
        if finish is not None:
            self._accounting.count_run(worker.model, finish, self._accounting.since_us(began))
            self._trace.add_run(finish)
