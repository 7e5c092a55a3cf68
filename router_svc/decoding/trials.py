"""Trial answers: at a boundary of the thinking, try whether the answer can be given now (DEER, arXiv 2504.15895)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from router_svc.decoding.answer import Answer
from router_svc.decoding.early_exit import Exits, Trial
from router_svc.decoding.follower import Follower
from router_svc.observers.trace import GenerationTrace
from router_svc.policies.policy import Handoff
from router_svc.trajectory.types import FinishReason, Model
from router_svc.workers.accounting import Accounting
from router_svc.workers.runs import PendingRun, Reply, RunSpec
from router_svc.workers.session import WorkerSession


@dataclass(frozen=True, slots=True)
class Trials:
    """The trials of one answer, whichever loop writes it."""

    exits: Exits | None  # where the thinking can end early; None: that was not asked for, and there are no trials
    answer: Answer
    follower: Follower
    trace: GenerationTrace
    accounting: Accounting

    @property
    def due(self) -> bool:
        return self.exits is not None and self.exits.due(self.answer.last_writer)

    @property
    def at_boundary(self) -> bool:
        """Whether a run that met one of `run_stops` met a boundary, and not the end of the answer."""
        return self.exits is not None and self.answer.end is not FinishReason.STOP

    def run_stops(self, writer: Model) -> frozenset[int]:
        """Tokens that end a run, boundaries among them, so that nothing is decoded in vain; none: the model's own."""
        if self.exits is None or not self.exits.thinking:
            return frozenset()
        return self.answer.stop_tokens(writer) | self.exits.rules[writer].boundaries

    async def attempt(self, writer: Model, handoff: Handoff | None, keep: Callable[[Model, Reply], bool]) -> bool:
        """Lets `writer` try an answer, if there is room for one.

        If the trial is sure enough it is kept and the thinking is over; else it is as if it had not been. One that
        failed is due again. Returns whether it was kept.
        """
        exits = self.exits
        assert exits is not None, "a trial was due"
        room = min(self.answer.num_left_for(writer), self.follower.workers[writer].room)
        num = exits.num_tokens(writer, room)
        if num < 1:
            exits.tried()
            return False
        rules, trial, position = exits.rules[writer], Trial(), len(self.answer.tokens)
        began = self.accounting.now()
        with self.trace.trial(writer, position) as span:

            def start(worker: WorkerSession) -> Awaitable[PendingRun]:
                spec = RunSpec(
                    max_tokens=num,
                    handoff=exits.listening(writer, handoff),
                    stop_tokens=rules.ends | self.answer.stop_tokens(writer),
                    traceparent=span.traceparent,
                    prompt=rules.prompt,
                )
                return worker.try_out(spec)

            # Nothing of it is kept while it comes, so a trial that fails leaves no trace in the answer.
            if await self.follower.run(writer, start, trial.add) is None:
                return False
            taken = exits.ends_thinking(trial)
            num_tokens = len(rules.prompt) + len(trial.said.tokens)
            span.set_outcome(num_tokens, trial.confidence, taken)
        self.follower.recovery.progress()
        self.accounting.count_trial(num_tokens, began)
        if taken:
            self.accounting.set_exit(position, trial.confidence)
            keep(writer, trial.kept(rules.prompt))
        return taken
