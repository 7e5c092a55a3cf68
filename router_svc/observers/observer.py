"""What the router learns from its answers as they begin and end, and what it makes of it for the next one.

It joins guard, load and metrics to the router's words; it knows neither wire nor store.
"""

from __future__ import annotations

from collections.abc import Callable

from router_svc.observers.guard import Answered, Guard, View
from router_svc.observers.load import LoadMeter
from router_svc.observers.metrics import AnswerMetrics
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.kinds import LlmOnly
from router_svc.policies.policy import Policy
from router_svc.trajectory.types import Finished, Model
from router_svc.workers.pair import WorkerPair
from rstitch.errors import RstitchError
from rstitch.service.metrics import Metrics


class Watch:
    """Of all answers that this router writes.

    Args:
        on: whether the guard may step in where a question does not say.
        clock: monotonic, in s.
    """

    def __init__(self, pair: WorkerPair, on: bool, clock: Callable[[], float], metrics: Metrics) -> None:
        self._pair = pair
        self.on = on
        self._clock = clock
        self._guard = Guard()
        self._load = LoadMeter()
        self._metrics = AnswerMetrics(metrics, lambda: self._load.num)
        # Of each session whose answer is written here from its first token on: by which workers.
        self._begun: dict[str, tuple[str, ...]] = {}

    def decide(self, policy: Policy, guard: bool | None, load: int, *, is_bounded: bool = False) -> tuple[Policy, str]:
        """The policy to answer with, and why it is not the one asked for ("" if it is). Called once per question.

        Args:
            policy: complete, with every default filled in.
            guard: what the question says; None: nothing.
            load: answers being written with this one.
            is_bounded: by a budget, which the LLM alone would spend at once: then the policy stays.
        """
        if is_bounded or not (self.on if guard is None else guard) or not _is_routed(policy):
            return policy, ""
        self._guard.of_pair(self._workers())
        reason = self._guard.choose(load)
        return (LlmOnly(), reason) if reason else (policy, "")

    def began(self, session_id: str, whole: bool) -> None:
        """An answer is being written; `whole`: from its first token on."""
        self._load.enter(session_id, self._clock())
        if whole:
            self._begun[session_id] = self._workers()

    def ended(self, session_id: str, settings: AnswerSettings, outcome: Finished | RstitchError) -> None:
        """It is no longer. What was broken off, or began elsewhere, or waited for a worker's restart, says nothing of
        costs.
        """
        load = self._load.leave(session_id, self._clock())
        workers = self._workers()
        undisturbed = self._begun.pop(session_id, None) == workers
        self._metrics.ended(settings, outcome)
        routed = _is_routed(settings.policy)
        if not undisturbed or isinstance(outcome, RstitchError) or not (routed or isinstance(settings.policy, LlmOnly)):
            return
        usage = outcome.usage
        self._guard.of_pair(workers)
        self._guard.saw(
            Answered(
                routed=routed,
                load=load,
                time_us=usage.total_time_us,
                num_tokens=max(1, usage.num_slm_tokens + usage.num_llm_tokens),
                llm_forward_us=usage.breakdown.llm_forward_us,
                num_llm_tokens=usage.num_llm_tokens,
            )
        )
        if self._metrics.enabled:
            self._metrics.knows(self._guard.views())

    def view(self) -> View:
        """What a new answer would find."""
        self._guard.of_pair(self._workers())
        return self._guard.view(self._load.num + 1)

    def _workers(self) -> tuple[str, ...]:
        infos = [self._pair.info(model) for model in Model]
        return tuple(info.instance_id if info else "" for info in infos)


def _is_routed(policy: Policy) -> bool:
    return policy.routes and policy.may_write(Model.SLM) and policy.may_write(Model.LLM)
