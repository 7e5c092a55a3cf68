"""What the router learns from its answers as they begin and end, and what follows from that for the next one.

It feeds guard, prices, load meter and metrics from the router's own values; it knows neither wire nor store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opentelemetry.context import Context

from router_svc.observers.guard import Guard, GuardState, Observation
from router_svc.observers.load import Kind, LoadMeter
from router_svc.observers.metrics import AnswerMetrics
from router_svc.observers.pricing import LoadPrices
from router_svc.observers.stretches import Stretches
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.kinds import LlmOnly
from router_svc.policies.policy import Policy
from router_svc.trajectory.types import Chunk, Finished, Model
from router_svc.workers.bound import BoundSession
from router_svc.workers.fleet import Fleet
from rstitch.errors import RstitchError
from rstitch.service.metrics import NO_METRICS, Metrics
from rstitch.service.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Observers:
    """Who looks on while this process writes answers, and by which clock (monotonic, in s)."""

    telemetry: Telemetry
    metrics: Metrics = NO_METRICS
    clock: Callable[[], float] = time.monotonic


class AnswerObserver:
    """Sees every answer that this router writes, and lets the guard choose its policy before it begins.

    `is_on` says whether the guard may step in where a question does not say.
    """

    def __init__(self, fleet: Fleet, is_on: bool, clock: Callable[[], float], metrics: Metrics) -> None:
        self._fleet = fleet
        self.is_on = is_on
        self._clock = clock
        self._guard = Guard()
        self._prices = LoadPrices()
        self._load = LoadMeter()
        self._metrics = AnswerMetrics(metrics, lambda: self._load.num)
        # The workers that each answer began with, for those that are written here from their first token on. They are
        # compared when it ends: a worker that was restarted meanwhile has another instance id.
        self._begun: dict[str, tuple[str, ...]] = {}
        self._stretches: dict[str, Stretches] = {}  # of the answers that are being written, if anybody wants metrics
        self._chosen: set[str] = set()  # sessions whose next answer is of the kind that the guard chose

    def choose_policy(
        self, policy: Policy, guard: bool | None, load: int, session_id: str, *, is_bounded: bool = False
    ) -> tuple[Policy, str]:
        """The policy to answer with, and why it is not the one asked for ("" if it is). Call it once per question.

        The load counts this answer, too; `guard` is None where the question does not say. Whatever becomes of the
        question, `settled` is to be called after it.
        """
        # The LLM alone would spend a budget at once.
        if is_bounded or not (self.is_on if guard is None else guard) or not _is_routed(policy):
            return policy, ""
        self._see()
        choice = self._guard.choose(load)
        self._chosen.add(session_id)
        chosen = LlmOnly() if choice.kind is Kind.LLM_ONLY else policy
        if choice.is_look:
            self._metrics.looked(chosen)
        return chosen, choice.reason

    def settled(self, session_id: str) -> None:
        """A question's answer has begun, or never will."""
        self._chosen.discard(session_id)

    def answer_began(
        self, session_id: str, policy: Policy, whole: bool, bound: BoundSession, written: Sequence[Chunk] = ()
    ) -> None:
        """Counts an answer that begins here, `whole` if from its first token on and with nothing that bounds it.

        What was `written` of it before is another router's, and counts where the answer ends.
        """
        self._load.enter(session_id, self._clock(), _kind(policy), chosen=session_id in self._chosen)
        if whole:
            self._begun[session_id] = bound.instances()
        if self._metrics.enabled:
            self._stretches[session_id] = Stretches()
            self.answer_grew(session_id, written)

    def answer_grew(self, session_id: str, chunks: Sequence[Chunk]) -> None:
        """Counts chunks of an answer that began here, in order."""
        if (stretches := self._stretches.get(session_id)) is not None:
            stretches.add(chunks)

    def answer_ended(
        self,
        session_id: str,
        settings: AnswerSettings,
        outcome: Finished | RstitchError,
        bound: BoundSession,
        trace: Context | None = None,
    ) -> None:
        """Counts an answer that ended here and lets the guard learn from it.

        Not from one that was broken off, began elsewhere, or whose workers were restarted or left: what those took says
        nothing about routing. Nor from one by the SLM alone, which is neither of the two kinds that are compared.
        """
        beside = self._load.leave(session_id, self._clock())
        undisturbed = self._begun.pop(session_id, None) == bound.instances()
        self._metrics.ended(settings, outcome, self._stretches.pop(session_id, None), trace)
        kind = _kind(settings.policy)
        if not undisturbed or isinstance(outcome, RstitchError) or kind is None:
            return
        usage = outcome.usage
        self._see()
        if kind is Kind.ROUTED:
            self._prices.observe(beside.load, usage)
        self._guard.observe(
            Observation(
                routed=kind is Kind.ROUTED,
                load=beside.load,
                time_us=usage.total_time_us,
                num_tokens=max(1, usage.num_slm_tokens + usage.num_llm_tokens),
                purity=beside.purity,
            )
        )
        if self._metrics.enabled:
            self._metrics.states = self._guard.states()

    def guard_state(self) -> GuardState:
        """What the guard knows at the load that a new answer would make."""
        self._see()
        return self._guard.state(self._load.num + 1)

    def price(self, load: int) -> float:
        """What a token of the LLM costs an answer that begins now, one of `load`, over what it costs one alone."""
        self._see()
        return self._prices.price(load)

    def _see(self) -> None:
        """What others cost says nothing of the workers that are there now."""
        self._guard.set_pair(self._fleet.identity)
        self._prices.set_pair(self._fleet.identity)


def _kind(policy: Policy) -> Kind | None:
    """Which of the two kinds that are compared an answer under a policy is, if any."""
    if _is_routed(policy):
        return Kind.ROUTED
    return Kind.LLM_ONLY if isinstance(policy, LlmOnly) else None


def _is_routed(policy: Policy) -> bool:
    """Whether both models may write under this policy, so that the LLM alone is another way to the same answer."""
    return policy.routes and policy.may_write(Model.SLM) and policy.may_write(Model.LLM)
