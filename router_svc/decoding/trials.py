"""Trial answers: at a boundary of the thinking, try whether the answer can be given now (DEER, arXiv 2504.15895)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from router_svc.decoding.answer import Answer
from router_svc.decoding.early_exit import Exits, Trial
from router_svc.decoding.follower import Follower
from router_svc.observers.trace import GenerationTrace
from router_svc.policies.policy import Handoff
from router_svc.trajectory.types import FinishReason, Model
from router_svc.workers.accounting import Accounting
from router_svc.workers.runs import PendingRun, Reply, RunSpec
from router_svc.workers.session import WorkerSession


class Trials:
    """The trials of one answer, whichever loop writes it.

    Args:
        exits: where the thinking can end early; None: early exit was not asked for, and there are no trials.
    """

    def __init__(
        self,
        exits: Exits | None,
        answer: Answer,
        follower: Follower,
        trace: GenerationTrace,
        accounting: Accounting,
    ) -> None:
        self._exits = exits
        self._answer = answer
        self._follower = follower
        self._trace = trace
        self._accounting = accounting

    @property
    def due(self) -> bool:
        """Whether a trial is to follow the last token."""
        return self._exits is not None and self._exits.due

    @property
    def at_boundary(self) -> bool:
        """Whether a run that met one of `run_stops` met a boundary, and not the end of the answer."""
        return self._exits is not None and self._answer.end is not FinishReason.STOP

    def run_stops(self, writer: Model) -> frozenset[int]:
        """Tokens that end a run, boundaries among them, so that nothing is decoded in vain; none: the model's own."""
        if self._exits is None or not self._exits.thinking:
            return frozenset()
        return self._answer.stop_tokens(writer) | self._exits.rules.boundaries

    async def attempt(self, writer: Model, handoff: Handoff | None, keep: Callable[[Model, Reply], bool]) -> bool:
        """Lets `writer` try an answer, if there is room for one.

        If the trial is sure enough it is kept and the thinking is over; else it is as if it had not been. One that
        failed is due again.

        Args:
            handoff: the writer's condition after the boundary.
            keep: keeps tokens of the writer.
        Returns: whether it was kept.
        """
        exits = self._exits
        assert exits is not None, "a trial was due"
        num = exits.num_tokens(self._answer.num_left_for(writer))
        if num < 1:
            exits.tried()
            return False
        rules, trial, position = exits.rules, Trial(), len(self._answer.tokens)
        began = self._accounting.now()
        with self._trace.trial(writer, position) as span:

            def start(worker: WorkerSession) -> Awaitable[PendingRun]:
                stops = rules.ends | self._answer.stop_tokens(writer)
                return worker.try_out(
                    RunSpec(
                        max_tokens=num,
                        handoff=exits.listening(handoff),
                        stop_tokens=stops,
                        traceparent=span.traceparent,
                        prompt=rules.prompt,
                    )
                )

            # Nothing of it is kept while it comes, so a trial that fails leaves no trace in the answer.
            if await self._follower.run(writer, start, trial.add) is None:
                return False
            taken = exits.ends_thinking(trial)
            num_tokens = len(rules.prompt) + len(trial.tokens)
            span.set_outcome(num_tokens, trial.confidence, taken)
        self._follower.note_progress()
        self._accounting.count_trial(num_tokens, began)
        if taken:
            self._accounting.set_exit(position, trial.confidence)
            keep(writer, trial.kept(rules.prompt))
        return taken
