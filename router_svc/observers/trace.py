"""The trace of a generation: a root span, below it one span per segment, each linked to the one before.

    rstitch.generate                        |----------------------------------------------------|
      SLM writes                              |-----------|
      LLM writes: entropy ~0.2 > tau                      |-------------------|
      SLM runs ahead                                       |------------------|
      SLM writes: entropy ≤ tau                                               |------------------|
        early-exit trial                                                          |----|

A switch is the boundary of two spans; there is no span per token, as an answer has thousands. The workers' own spans
hang below a segment's by the traceparent of their runs. Of an answer with many segments those behind the first
`group` are in groups of so many. Without telemetry nothing is made. It knows neither workers nor store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context

from router_svc.observers import span_names
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.trajectory.session_names import id_in, tenant_in
from router_svc.trajectory.types import Finished, Model, SwitchReason
from router_svc.workers.runs import RunFinish
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.telemetry import Telemetry, context_from_traceparent, traceparent_of

_PROVIDER = "rstitch"
# What a segment is called by: its model, why it began, the value that decided, and the bound.
_Why = tuple[Model, SwitchReason, float, float | None]


class TrialSpan:
    """The span of one trial answer; `traceparent` is "" if it is not traced."""

    def __init__(self, span: trace.Span | None = None) -> None:
        self._span = span
        self.traceparent = traceparent_of(span) if span is not None else ""

    def set_outcome(self, num_tokens: int, confidence: float, taken: bool) -> None:
        if self._span is not None:
            self._span.set_attribute(semconv.RSTITCH_TRIAL_NUM_TOKENS, num_tokens)
            self._span.set_attribute(semconv.RSTITCH_TRIAL_CONFIDENCE, confidence)
            self._span.set_attribute(semconv.RSTITCH_TRIAL_TAKEN, taken)


@dataclass(frozen=True, slots=True)
class Tracing:
    """How this router traces its answers: where to, and in which form."""

    telemetry: Telemetry
    exact_names: bool = False  # of spans: see `span_names`
    group: int = 0  # segments behind the first so many are in groups of so many; 0: none is

    def begin(self, resumed_from: str | None = None) -> GenerationTrace:
        """Begins a generation's trace below the span of the call.

        The trace of an answer that is gone on with begins below the root span that its first router made
        (`resumed_from`), so that both are one trace.
        """
        parent = context_from_traceparent(resumed_from) if resumed_from else None
        return GenerationTrace(self, "rstitch.generate", parent)


class GenerationTrace:
    """The spans of one generation. `Tracing` makes it; its methods cost nothing where tracing is off.

    At most two segment spans are open: that of the model that writes, and, once a worker began on what may follow, the
    prepared next one, whose place and reason are known only later. Beside them may be what the SLM writes ahead.

    Attributes:
        traceparent: of the root span, "" if it is not traced. It is stored with the trajectory, so that a router which
            goes on with the answer goes on with its trace.
        context: with the root span as the current one; None if it is not traced.
    """

    def __init__(self, tracing: Tracing, name: str, parent: Context | None) -> None:
        self._style = tracing
        self._tracer = tracing.telemetry.tracer
        self._enabled = tracing.telemetry.enabled
        self.traceparent = ""
        self.context: Context | None = None
        self._segment: trace.Span | None = None
        self._why: _Why = (Model.SLM, SwitchReason.NONE, 0.0, None)  # of the open segment
        self._next: trace.Span | None = None
        self._next_begin_ns = 0
        self._ahead: trace.Span | None = None
        self._ahead_end_ns = 0  # once the LLM's segment is over; what is kept is known later
        self._groups: list[trace.Span] = []  # the open one, and before it one whose last segment is still open
        self._num_segments = 0
        self._next_num_catch_up_tokens = 0
        # What the next segment is linked to: the segment that begins last, open or ended.
        self._before: trace.SpanContext | None = None
        # Sums over the open segment, set as attributes when it ends.
        self._num_tokens = 0
        self._num_ahead_tokens = 0
        self._num_catch_up_tokens = 0
        self._queue_us = 0
        self._forward_us = 0
        if self._enabled:
            self._root = self._tracer.start_span(name, parent)
            self.context = trace.set_span_in_context(self._root, parent)
            self.traceparent = traceparent_of(self._root)

    def describe(self, name: str, epoch: int, settings: AnswerSettings, models: dict[Model, str]) -> None:
        """Puts on the root span whose session it is and what was asked for, once everything left open is filled in."""
        if not self._enabled:
            return
        sampling, session_id = settings.sampling, id_in(name)
        self._root.set_attributes(
            {
                semconv.GEN_AI_OPERATION_NAME: "text_completion",
                semconv.GEN_AI_PROVIDER_NAME: _PROVIDER,
                semconv.GEN_AI_CONVERSATION_ID: session_id,
                semconv.GEN_AI_REQUEST_MODEL: " + ".join(models[model] for model in Model),
                semconv.GEN_AI_REQUEST_MAX_TOKENS: settings.max_new_tokens,
                semconv.GEN_AI_REQUEST_TEMPERATURE: sampling.temperature,
                semconv.GEN_AI_REQUEST_TOP_P: sampling.top_p or 1.0,
                semconv.GEN_AI_REQUEST_TOP_K: sampling.top_k,
                semconv.GEN_AI_REQUEST_SEED: min(sampling.seed, 2**63 - 1),  # attributes are signed
                semconv.GEN_AI_REQUEST_STOP_SEQUENCES: settings.stop,
                semconv.RSTITCH_SESSION_ID: session_id,
                semconv.RSTITCH_EPOCH: epoch,
                semconv.RSTITCH_POLICY: settings.policy.name,
            }
        )
        if tenant := tenant_in(name):
            self._root.set_attribute(semconv.RSTITCH_TENANT, tenant)
        bound = settings.policy.bound(Model.SLM)
        if bound is not None:
            self._root.set_attribute(semconv.RSTITCH_TAU, bound)
        if settings.early_exit is not None:
            self._root.set_attribute(semconv.RSTITCH_EARLY_EXIT_THRESHOLD, settings.early_exit.threshold)
        if settings.guard_reason:
            self._root.set_attribute(semconv.RSTITCH_GUARD_REASON, settings.guard_reason)

    def begin_segment(
        self, model: Model, position: int, reason: SwitchReason, entropy: float, tau: float | None
    ) -> str:
        """Says that `model` writes from `position` on, and ends the segment before. Returns the runs' traceparent."""
        if not self._enabled:
            return ""
        prepared = self._next
        self.end_segment()
        self._num_catch_up_tokens, self._next_num_catch_up_tokens = self._next_num_catch_up_tokens, 0
        if self._ahead is not None:
            self._ahead_end_ns = time.time_ns()
        attributes: dict[str, str | int | float] = {
            semconv.RSTITCH_SEGMENT_TO: model.label,
            semconv.RSTITCH_SEGMENT_MODEL: model.label,
            semconv.RSTITCH_SEGMENT_POSITION: position,
        }
        if tau is not None:
            attributes[semconv.RSTITCH_SEGMENT_TAU] = tau
        if reason:
            attributes[semconv.RSTITCH_SEGMENT_FROM] = model.other.label
            attributes[semconv.RSTITCH_SEGMENT_REASON] = reason.name.lower()
            attributes[semconv.RSTITCH_SEGMENT_ENTROPY] = entropy
            attributes[semconv.RSTITCH_SEGMENT_WHY] = span_names.why_of(reason, entropy, tau)
        self._why = (model, reason, entropy, tau)
        self._segment = prepared or self._start_segment(model)
        self._segment.update_name(span_names.segment_name(model, reason, entropy))
        self._segment.set_attributes(attributes)
        self._before = self._segment.get_span_context()
        return traceparent_of(self._segment)

    def prepare_segment(self, model: Model) -> str:
        """Says that `model` begins to work on what may become the next segment. Returns the run's traceparent.

        So a verification's forwards are in its own segment although it is known only afterwards how much of the draft
        stays. The open segment's time ends here, though what it holds is known only then.
        """
        if not self._enabled:
            return ""
        if self._next is None:
            self._next, self._next_begin_ns = self._start_segment(model), time.time_ns()
        return traceparent_of(self._next)

    def _start_segment(self, model: Model) -> trace.Span:
        links = [trace.Link(self._before)] if self._before is not None else []
        name = span_names.segment_name(model, SwitchReason.NONE, 0.0)
        return self._tracer.start_span(name, self._context_of_next(), links=links)

    def _context_of_next(self) -> Context | None:
        """Gives what the next segment is below: the root, or the group that it belongs to or begins."""
        number, size = self._num_segments, self._style.group
        self._num_segments += 1
        if not size or number < size:
            return self.context
        if number % size == 0:
            self._groups.append(self._tracer.start_span(span_names.GROUP, self.context))
            self._groups[-1].set_attribute(semconv.RSTITCH_GROUP_FIRST, number + 1)
            if self._style.exact_names:
                self._groups[-1].update_name(span_names.group_name(number + 1))
        return trace.set_span_in_context(self._groups[-1], self.context)

    def begin_run_ahead(self, position: int) -> str:
        """Says that the SLM may write ahead from `position` on while the LLM has the pen. Returns its traceparent."""
        if not self._enabled:
            return ""
        self._ahead = self._tracer.start_span(span_names.RUN_AHEAD, self.context)
        self._ahead.set_attribute(semconv.RSTITCH_RUN_AHEAD_POSITION, position)
        self._ahead_end_ns = 0
        return traceparent_of(self._ahead)

    def forget_run_ahead(self) -> None:
        """Takes that back: it did not. A span that is not ended is not sent."""
        self._ahead = None

    @contextmanager
    def trial(self, model: Model, position: int) -> Iterator[TrialSpan]:
        # No segment is open where nothing is traced.
        if self._segment is None:
            yield TrialSpan()
            return
        attributes: dict[str, str | int] = {
            semconv.RSTITCH_TRIAL_MODEL: model.label,
            semconv.RSTITCH_TRIAL_POSITION: position,
        }
        context = trace.set_span_in_context(self._segment, self.context)
        span = self._tracer.start_span(span_names.TRIAL, context, attributes=attributes)
        try:
            yield TrialSpan(span)
        finally:
            span.end()

    def add_catch_up(self, num_tokens: int) -> None:
        """Counts tokens that a model was fed and did not write, in the prepared segment if there is one."""
        if self._next is None:
            self._num_catch_up_tokens += num_tokens
        else:
            self._next_num_catch_up_tokens += num_tokens

    def set_worker(self, worker_id: str) -> None:
        """Says which of several workers a run went to."""
        if (segment := self._next or self._segment) is not None:
            segment.set_attribute(semconv.RSTITCH_SEGMENT_WORKER, worker_id)

    def add_kept(self, num_tokens: int, num_ahead_tokens: int) -> None:
        self._num_tokens += num_tokens
        self._num_ahead_tokens += num_ahead_tokens

    def add_run(self, finish: RunFinish) -> None:
        self._queue_us += finish.queue_us
        self._forward_us += finish.forward_us

    def end_segment(self) -> None:
        """Ends the open segment, if there is one, with its sums; a prepared one begins where this one's time ended."""
        if self._segment is not None:
            if self._style.exact_names:
                self._segment.update_name(span_names.exact_segment_name(*self._why, self._num_tokens))
            self._segment.set_attributes(
                {
                    semconv.RSTITCH_SEGMENT_NUM_TOKENS: self._num_tokens,
                    semconv.RSTITCH_SEGMENT_NUM_RUN_AHEAD_TOKENS: self._num_ahead_tokens,
                    semconv.RSTITCH_SEGMENT_NUM_CATCH_UP_TOKENS: self._num_catch_up_tokens,
                    semconv.RSTITCH_SEGMENT_QUEUE_US: self._queue_us,
                    semconv.RSTITCH_SEGMENT_FORWARD_US: self._forward_us,
                }
            )
            # With a next segment prepared, this one's time ended when that began.
            self._segment.end(self._next_begin_ns if self._next is not None else None)
            self._end_run_ahead()
            for group in self._groups[:-1]:
                group.end()
            del self._groups[:-1]
        self._segment = self._next = None
        self._num_tokens = self._num_ahead_tokens = self._num_catch_up_tokens = 0
        self._queue_us = self._forward_us = 0

    def _end_run_ahead(self) -> None:
        """Ends the span of a run-ahead that is over, and of which the SLM's segment has said how much was kept."""
        if self._ahead is None or not self._ahead_end_ns:
            return
        num_kept = self._num_ahead_tokens
        self._ahead.set_attribute(semconv.RSTITCH_SEGMENT_NUM_RUN_AHEAD_TOKENS, num_kept)
        if self._style.exact_names:
            self._ahead.update_name(span_names.run_ahead_name(num_kept))
        self._ahead.end(self._ahead_end_ns)
        self._ahead = None

    def end(self, outcome: Finished | RstitchError) -> None:
        """Ends the open segment and the root span, with the error if there is one."""
        if not self._enabled:
            return
        prepared = self._next
        self.end_segment()
        if prepared is not None:  # its worker was asked, but nothing of it was kept
            prepared.end()
        for group in self._groups:
            group.end()
        self._ahead_end_ns = self._ahead_end_ns or time.time_ns()
        self._end_run_ahead()
        if isinstance(outcome, RstitchError):
            self._root.set_status(trace.Status(trace.StatusCode.ERROR, f"{outcome.reason}: {outcome.message}"))
        else:
            usage = outcome.usage
            self._root.set_attributes(
                {
                    semconv.GEN_AI_RESPONSE_FINISH_REASONS: (outcome.reason.name.lower(),),
                    semconv.GEN_AI_USAGE_INPUT_TOKENS: usage.num_prompt_tokens,
                    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: usage.num_slm_tokens + usage.num_llm_tokens,
                    semconv.RSTITCH_USAGE_SLM_TOKENS: usage.num_slm_tokens,
                    semconv.RSTITCH_USAGE_LLM_TOKENS: usage.num_llm_tokens,
                    semconv.RSTITCH_USAGE_DISCARDED_PROPOSALS: usage.num_discarded_proposals,
                    semconv.RSTITCH_USAGE_SWITCHES: usage.num_switches,
                    semconv.RSTITCH_USAGE_CATCH_UP_TOKENS: usage.num_catch_up_tokens,
                    semconv.RSTITCH_USAGE_TRIALS: usage.num_trials,
                    semconv.RSTITCH_USAGE_TIME_TO_FIRST_TOKEN_US: usage.time_to_first_token_us,
                }
            )
        self._root.end()
