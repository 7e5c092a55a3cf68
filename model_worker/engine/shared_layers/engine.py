"""The engine of a model whose first layers are the SLM: two roles, one set of weights, one KV cache, one row of tokens
a session.

Both roles' requests come here, each with its own idea of what is held. A session's tokens are the same for both:
those that are held already, whoever wrote them, stay computed. Background work is put off and not done: the shared
layers are computed by whoever writes, the upper ones for many tokens at once when the LLM takes over, and never for an
answer that the LLM does not touch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from model_worker.engine.bookkeeping.admission import check_held, check_idle, check_request
from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.bookkeeping.runs import Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.commit import common_prefix
from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.flight import Flight
from model_worker.engine.forward.invariant_check import check_invariance
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.parity import (
    check_parity,
    parity_request,
    parity_session,
    parity_tokens,
    reference_logits,
)
from model_worker.engine.forward.runner import Runner
from model_worker.engine.shared_layers.model import SharedModel
from model_worker.engine.shared_layers.runner import SharedRunner
from model_worker.engine.shared_layers.scheduler import SharedRun, SharedScheduler
from model_worker.engine.types import FinishReason, Limits, RunRequest


class SharedEngine(Engine):
    """A model with its sessions; `RunRequest.shallow` says which role a run is of.

    The constructor raises UnsupportedModel if a part of the model does not give its own logits.
    """

    _run_type = SharedRun
    _scheduler_type = SharedScheduler

    def __init__(self, loaded: LoadedModel, shared: SharedModel, limits: Limits) -> None:
        if loaded.states:
            raise UnsupportedModel(
                f"{type(loaded.module).__name__}: a model whose layers keep states cannot serve both roles; "
                "start without --shared-listen"
            )
        self.shared = shared
        self.shallow_costs: CostModel | None = None  # of a step of the SLM; `costs` are of the whole model
        self._put_off: list[Run] = []
        super().__init__(loaded, limits)

    @property
    def is_idle(self) -> bool:
        return super().is_idle and not self._put_off

    def submit(self, request: RunRequest, arrived: float | None = None) -> int:
        """Accepts a run, as `Engine.submit` does. A background run ends at the next step, unless it observes; if
        it only feeds tokens to a session that nobody writes to, it has appended them by then.
        """
        session = self._table.get(request.session_id) or Session(request.session_id)
        busy = request.is_background and session.running
        check_request(request, self.limits)
        if not busy:
            check_idle(session)
        check_held(request, session)
        if request.is_background and (busy or request.wants_token) and request.observe is None:
            return self._end_at_once(request, session, arrived)
        # What the other role has written and this one sends now is held already: only what differs is appended.
        num_same = common_prefix(request.tokens, session.tokens[request.position :])
        rest = replace(
            request, position=request.position + num_same, tokens=request.tokens[num_same:], prefix_checksum=None
        )
        if rest.wants_token:
            return super().submit(rest, arrived)
        session = self._table.open(request.session_id, request.cache_salt)
        if rest.tokens:  # without any, what is held beyond them may be the other role's, and stays
            self._table.truncate(session, rest.position)
            session.tokens.extend(rest.tokens)
        return self._end_at_once(request, session, arrived)

    def cancel(self, run_id: int) -> None:
        self._put_off = [run for run in self._put_off if run.run_id != run_id]
        super().cancel(run_id)

    def launch(self) -> Flight:
        """Ends the runs that were put off, then begins a step as `Engine.launch` does."""
        put_off, self._put_off = self._put_off, []
        flight = Flight(time.perf_counter(), [], []) if super().is_idle else super().launch()
        flight.events[:0] = [self._committer.end_event(run, FinishReason.LENGTH) for run in put_off]
        return flight

    def _end_at_once(self, request: RunRequest, session: Session, arrived: float | None) -> int:
        run = SharedRun(next(self._run_ids), request, session, arrived=arrived or time.perf_counter())
        self._put_off.append(run)
        return run.run_id

    def _new_runner(self, loaded: LoadedModel, on_progress: Callable[[int, int], None]) -> Runner:
        return SharedRunner(loaded, self.shared, self.limits)

    def _verified_runner(self, loaded: LoadedModel, on_progress: Callable[[int, int], None]) -> Runner:
        """Returns a runner all of whose parts give the model's own logits."""
        name = type(loaded.module).__name__
        tokens = parity_tokens(loaded, self.limits)
        llm = reference_logits(loaded, tokens)
        slm = reference_logits(replace(loaded, module=self.shared.slm), tokens)
        runner = super()._verified_runner(loaded, on_progress)
        with parity_session(self._table, tokens) as session:
            # In this order: the second run finds what the first one left, and goes on in the upper layers.
            for label, shallow, reference in ((f"the SLM in {name}", True, slm), (f"{name} above it", False, llm)):
                run = SharedRun(0, parity_request(tokens, shallow), session)
                check_parity(label, runner, self._table, run, reference, self.limits.max_batch_tokens)
        if self.limits.batch_invariant:
            check_invariance(f"the SLM in {name}", runner, self._table, self.limits, self._new_run, shallow=True)
        return runner
