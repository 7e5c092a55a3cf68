"""Follows the writer's run to its end, keeps the other model caught up beside it, and recovers from what fails.

It decides nothing: what to run and what to do with its tokens, the loop says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from router_svc.decoding.answer import Answer
from router_svc.decoding.recovery import Recovery
from router_svc.observers.trace import GenerationTrace
from router_svc.trajectory.types import Model
from router_svc.workers.accounting import Accounting
from router_svc.workers.runs import PendingRun, Reply, RunFinish
from router_svc.workers.session import WorkerSession
from rstitch.errors import RstitchError


@dataclass(frozen=True, slots=True)
class Follower:
    """One answer's runs, one at a time."""

    answer: Answer
    workers: Mapping[Model, WorkerSession]  # both models' sides of the session
    recovery: Recovery
    trace: GenerationTrace
    accounting: Accounting

    async def run(
        self,
        writer: Model,
        start: Callable[[WorkerSession], Awaitable[PendingRun]],
        take: Callable[[Reply], bool],
    ) -> RunFinish | None:
        """Starts a run of `writer` and follows it to its end; `take` gets tokens and says if the rest is not wanted.

        Returns how it ended; None if `take` cut it short, or if it failed and another try is worth it. Raises
        RstitchError when no try is worth it any more; what is kept stays kept.
        """
        self.recovery.check_vocabularies()
        worker = self.workers[writer]
        # A worker that came back may be another process with an empty cache, or another model.
        if worker.is_lost:
            await self.recovery.before(writer)
            await self._go_on(writer)
        elif self.recovery.bound.moved_away(writer):
            await self._go_on(writer)
        run = await start(worker)
        self.trace.add_catch_up(run.num_sent)
        if worker_id := self.recovery.bound.worker_id(writer):
            self.trace.set_worker(worker_id)
        began = self.accounting.run_begins()
        taking = _Taking(self, writer, worker, take, began)
        run.early = taking.early
        try:
            while True:
                # Taken before anything is awaited: a token that came is part of the answer or was refused.
                reply = await run.next()
                if not taking.is_cut:
                    reply = taking.take(reply)
                if taking.is_cut:
                    run.early = None
                    self._end_run(worker, await worker.cut_short(run, self.answer.traceparent), began)
                    return None
                if reply.finish is not None:
                    self._end_run(worker, reply.finish, began)
                    return reply.finish
                # Time in which the store was waited for is not the model's.
                began += await self.answer.wait_for_room()
                await self.catch_up(writer.other)
        except RstitchError as error:
            # What the run kept is part of the answer already, so the next round simply begins after it.
            worker.account_failure(run, error)
            await self.recovery.after(writer, error)
            await self._go_on(writer)
            self.accounting.waited_for_model(writer, taking.since)
            self.accounting.run_is_over()
            return None
        finally:
            run.early = None

    def keep(self, writer: Model, reply: Reply, *, is_proposal: bool = False) -> bool:
        """Keeps tokens that `writer` wrote. Returns whether a stop string is complete."""
        # The worker has dropped its proposal.
        stopped = self.answer.keep(writer, reply, None if is_proposal else self.workers[writer])
        self.recovery.progress()
        return stopped

    async def catch_up(self, model: Model) -> None:
        """Feeds the model that waits, in the background, so that a switch costs a decode step and not a prefill."""
        if self.answer.policy.may_still_write(model, self.answer.history):
            worker = self.workers[model]
            if self.recovery.bound.moved_away(model, is_doubted=worker.is_lost):
                await self._go_on(model)
            await worker.catch_up(self.answer.traceparent)

    def rests(self, model: Model) -> bool:
        """Whether `catch_up` has nothing to do now."""
        if self.recovery.bound.is_sound(model) and self.workers[model].rests:
            return True
        return not self.answer.policy.may_still_write(model, self.answer.history)

    async def _go_on(self, model: Model) -> None:
        """The worker was looked at, or the session went to another one, which knows nothing of it."""
        await self.workers[model].mark_found(self.recovery.client(model))
        await self.recovery.bound.arrive(model)

    def finish(self) -> None:
        """The answer is complete: both workers drop what is not part of it."""
        for worker in self.workers.values():
            worker.finish(self.answer.traceparent)

    def _end_run(self, worker: WorkerSession, finish: RunFinish | None, began: float) -> None:
        """A run that decodes is over; `finish` is None where the worker did not say how."""
        self.accounting.run_is_over()
        if finish is not None:
            self.accounting.count_run(worker.model, finish, self.accounting.since_us(began))
            self.trace.add_run(finish)


@dataclass(slots=True, eq=False)
class _Taking:
    """Takes what a run says: at once, as its worker's stream is read, unless something is to be awaited after it."""

    follower: Follower
    writer: Model
    worker: WorkerSession
    keep: Callable[[Reply], bool]
    since: float  # when the model was last waited for
    is_cut: bool = False  # whether the rest is not wanted

    def take(self, reply: Reply) -> Reply:
        """Takes the tokens of a reply, and gives it back in the answer's ids."""
        reply = self.worker.read(reply)
        self.since = self.follower.accounting.waited_for_model(self.writer, self.since)
        self.follower.answer.note_consultations(reply.consultations)
        if reply.tokens and self.keep(reply):
            self.is_cut = True
        return reply

    def early(self, reply: Reply) -> Reply | None:
        """Takes a reply; returns one without tokens where the task that follows the run has something to do."""
        self.take(reply)
        if not self.is_cut and self.follower.answer.has_room and self.follower.rests(self.writer.other):
            return None
        return Reply([], [], None)
