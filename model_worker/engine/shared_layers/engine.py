"""The engine of a model with an exit: two roles, one set of weights, one KV cache, one row of tokens a session.

Both roles' requests come here, each with its own idea of what is held. A session's tokens are the same for both:
those that are held already, whoever wrote them, stay computed. Background work is put off, not done: the layers below
the exit are computed by whoever writes, those above it for many tokens at once when the LLM takes over, and never for
an answer that it does not touch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from model_worker.engine.bookkeeping.admission import check_held, check_idle, check_request
from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.bookkeeping.scheduler import Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.commit import common_prefix
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.parity import (
    check_parity,
    parity_request,
    parity_session,
    parity_tokens,
    reference_logits,
)
from model_worker.engine.forward.runner import Runner
from model_worker.engine.shared_layers.model import Exit
from model_worker.engine.shared_layers.runner import ExitRunner
from model_worker.engine.shared_layers.scheduler import ExitRun, ExitScheduler
from model_worker.engine.types import Event, FinishReason, Limits, RunRequest


class ExitEngine(Engine):
    """A model with its sessions; `RunRequest.exit` says which role a run is of.

    Attributes:
        exit_costs: what a step of the SLM takes, if it was measured; `costs` are of the whole model.

    Raises (from the constructor) UnsupportedModel if a part of the model does not give its own logits.
    """

    _run_type = ExitRun
    _scheduler_type = ExitScheduler

    def __init__(self, loaded: LoadedModel, exit_: Exit, limits: Limits) -> None:
        self.exit = exit_
        self.exit_costs: CostModel | None = None
        self._put_off: list[Run] = []
        super().__init__(loaded, limits)

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return super().is_idle and not self._put_off

    def submit(self, request: RunRequest, arrived: float | None = None) -> int:
        """As `Engine.submit`. A run in the background ends at the next step; if it only feeds tokens to a session that
        nobody writes to, it has then appended them.
        """
        session = self._table.get(request.session_id) or Session(request.session_id)
        busy = request.is_background and session.running
        check_request(request, self.limits)
        if not busy:
            check_idle(session)
        check_held(request, session)
        if request.is_background and (busy or request.wants_token):
            return self._end_at_once(request, session, arrived)
        num_same = common_prefix(request.tokens, session.tokens[request.position :])
        rest = replace(
            request,
            position=request.position + num_same,
            tokens=request.tokens[num_same:],
            prefix_checksum=None,
        )
        if rest.wants_token:
            return super().submit(rest, arrived)
        session = self._table.open(request.session_id)
        if rest.tokens:  # else what is held beyond may be the other role's
            self._table.truncate(session, rest.position)
            session.tokens.extend(rest.tokens)
        return self._end_at_once(request, session, arrived)

    def cancel(self, run_id: int) -> None:
        """Ends a run without an event; its session stays, idle."""
        self._put_off = [run for run in self._put_off if run.run_id != run_id]
        super().cancel(run_id)

    def step(self) -> list[Event]:
        """As `Engine.step`; runs that were put off end first."""
        events: list[Event] = [self._committer.finished(run, FinishReason.LENGTH) for run in self._put_off]
        self._put_off.clear()
        return events if super().is_idle else events + super().step()

    def _end_at_once(self, request: RunRequest, session: Session, arrived: float | None) -> int:
        arrived = time.perf_counter() if arrived is None else arrived
        run = ExitRun(next(self._run_ids), request, session, arrived=arrived)
        self._put_off.append(run)
        return run.run_id

    def _new_runner(self, loaded: LoadedModel, on_progress: Callable[[int, int], None]) -> Runner:
        return ExitRunner(loaded, self.exit, self.limits)

    def _verified_runner(self, loaded: LoadedModel, on_progress: Callable[[int, int], None]) -> Runner:
        """A runner all of whose parts give the model's own logits."""
        name = type(loaded.module).__name__
        tokens = parity_tokens(name, self.limits)
        deep = reference_logits(loaded, tokens)
        shallow = reference_logits(replace(loaded, module=self.exit.module), tokens)
        runner = super()._verified_runner(loaded, on_progress)
        with parity_session(self._table, tokens) as session:
            # In this order: the second run finds what the first one left below the exit, and goes on above it.
            for label, at_exit, reference in (
                (f"the exit of {name}", True, shallow),
                (f"{name} above it", False, deep),
            ):
                run = ExitRun(0, parity_request(tokens, at_exit), session)
                check_parity(label, runner, run, reference)
        return runner
