"""What the router counts and times of its answers. It sends nothing and decides nothing.

An answer is counted when it ends, in the router where it ends: usage is stored with the trajectory, so one that two
routers wrote counts once, and whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

from router_svc.observers.guard import GuardState
from router_svc.observers.stretches import Stretches, StretchMetrics
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.policy import Policy
from router_svc.trajectory.types import Finished, Model
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.metrics import Metrics, Reading

# Bounds of the histograms' buckets, in s. Those that the semantic conventions suggest end where a fast pair begins.
_DURATIONS = [0.01 * 2**power for power in range(15)]
_FIRST_TOKENS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_PER_TOKEN = [0.0001 * 2**power for power in range(15)]
_COMMON = {semconv.GEN_AI_OPERATION_NAME: "text_completion", semconv.GEN_AI_PROVIDER_NAME: "rstitch"}


class AnswerMetrics:
    """The instruments of one router. Nothing is counted where nobody wants metrics: `enabled` is False then."""

    def __init__(self, metrics: Metrics, num_running: Callable[[], int]) -> None:
        meter = metrics.meter
        self.enabled = metrics.enabled
        self.states: dict[str, GuardState] = {}  # by the load's name; replaced by the loop, read by the sender's thread
        counter = meter.create_counter
        self._answers = counter(semconv.METRIC_ANSWERS, "{answer}", "Answers that ended.")
        self._tokens = counter(semconv.METRIC_TOKENS, "{token}", "Tokens of finished answers.")
        self._switches = counter(semconv.METRIC_SWITCHES, "{switch}", "Hand-overs in finished answers.")
        what = "SLM proposals that were computed and not kept."
        self._discarded = counter(semconv.METRIC_DISCARDED_PROPOSALS, "{token}", what)
        what = "Tokens that a model was fed and did not write."
        self._catch_up = counter(semconv.METRIC_CATCH_UP_TOKENS, "{token}", what)
        self._run_ahead = counter(
            semconv.METRIC_RUN_AHEAD_TOKENS, "{token}", "SLM tokens written ahead, kept or in vain."
        )
        self._trials = counter(semconv.METRIC_TRIALS, "{trial}", "Trial answers of early exit.")
        what = "Answers of the kind that the guard does not favour, to see what it takes."
        self._looks = counter(semconv.METRIC_GUARD_LOOKS, "{answer}", what)

        def timer(name: str, what: str, bounds: list[float]) -> Histogram:
            return meter.create_histogram(name, "s", what, explicit_bucket_boundaries_advisory=bounds)

        self._duration = timer(semconv.GEN_AI_SERVER_REQUEST_DURATION, "From the request to the end.", _DURATIONS)
        what = "From the request to the first token."
        self._first_token = timer(semconv.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN, what, _FIRST_TOKENS)
        self._per_token = timer(semconv.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN, "Per token after the first.", _PER_TOKEN)
        self._stretches = StretchMetrics(metrics)
        gauge = metrics.gauge_of
        gauge(semconv.METRIC_RUNNING, "{answer}", "Answers being written.", lambda: [(num_running(), {})])
        what = "Whether routing loses at a load: 1 or 0."
        gauge(semconv.METRIC_GUARD_LLM_ONLY, "{load}", what, self._guard_states)
        what = "An answer of usual length, routed or LLM-only, at a load."
        gauge(semconv.METRIC_GUARD_COST, "s", what, self._costs)

    def ended(
        self,
        settings: AnswerSettings,
        outcome: Finished | RstitchError,
        stretches: Stretches | None = None,
        trace: Context | None = None,
    ) -> None:
        """Counts an answer that ended; what it took only if it is finished: else another may go on with it.

        A histogram's exemplar is the answer's `trace`, if it has one.
        """
        if not self.enabled:
            return
        policy = {semconv.RSTITCH_POLICY: settings.policy.name}
        guarded = {semconv.RSTITCH_GUARDED: bool(settings.guard_reason)}
        if isinstance(outcome, RstitchError):
            self._answers.add(1, {**policy, **guarded, semconv.ERROR_TYPE: outcome.reason})
            return
        self._answers.add(1, {**policy, **guarded, semconv.RSTITCH_FINISH_REASON: outcome.reason.name.lower()})
        usage = outcome.usage
        num_tokens = usage.num_slm_tokens + usage.num_llm_tokens
        self._tokens.add(usage.num_slm_tokens, {**policy, semconv.RSTITCH_MODEL: Model.SLM.label})
        self._tokens.add(usage.num_llm_tokens, {**policy, semconv.RSTITCH_MODEL: Model.LLM.label})
        self._switches.add(usage.num_switches, policy)
        self._discarded.add(usage.num_discarded_proposals, policy)
        self._catch_up.add(usage.num_catch_up_tokens, policy)
        self._run_ahead.add(usage.num_run_ahead_tokens, {semconv.RSTITCH_KEPT: True})
        self._run_ahead.add(usage.num_run_ahead_discarded, {semconv.RSTITCH_KEPT: False})
        # Of an answer's trials only the last can be kept, and then its thinking has ended there.
        num_kept = int(usage.exit_position > 0)
        self._trials.add(num_kept, {**policy, semconv.RSTITCH_KEPT: True})
        self._trials.add(usage.num_trials - num_kept, {**policy, semconv.RSTITCH_KEPT: False})
        if stretches is not None:
            self._stretches.count(stretches)
        timed = {**_COMMON, **policy}
        self._duration.record(usage.total_time_us / 1e6, timed, trace)
        self._first_token.record(usage.time_to_first_token_us / 1e6, timed, trace)
        # As the conventions have it: the first token has a figure of its own, and one token alone has no next.
        if num_tokens > 1:
            after_first_us = usage.total_time_us - usage.time_to_first_token_us
            self._per_token.record(after_first_us / (num_tokens - 1) / 1e6, timed, trace)

    def looked(self, policy: Policy) -> None:
        """Counts an answer that belongs to a look of the guard, under the policy that it will have."""
        self._looks.add(1, {semconv.RSTITCH_POLICY: policy.name})

    def _guard_states(self) -> Iterator[Reading]:
        for load, state in self.states.items():
            yield int(state.llm_only), {semconv.RSTITCH_LOAD: load}

    def _costs(self) -> Iterator[Reading]:
        """The costs at each load where both are known: one alone could not be compared."""
        for load, state in self.states.items():
            if state.routed_us:
                yield state.routed_us / 1e6, {semconv.RSTITCH_LOAD: load, semconv.RSTITCH_POLICY: "routed"}
                yield state.llm_only_us / 1e6, {semconv.RSTITCH_LOAD: load, semconv.RSTITCH_POLICY: "llm_only"}
