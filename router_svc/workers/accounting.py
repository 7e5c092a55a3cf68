"""Where an answer's tokens and its time go: the one owner of its usage. It knows neither wire nor store."""

from __future__ import annotations

from collections.abc import Callable

from router_svc.trajectory.types import Model
from router_svc.trajectory.usage import Usage
from router_svc.workers.reuse import PromptReuse
from router_svc.workers.runs import RunFinish


class Accounting:
    """Keeps the usage of one answer; everybody else only reads it.

    Time is told apart by who is waited for. Between two runs that decode, the router is at work or waits for the store:

        claim (store) | routing | run: a model, or the store's room | routing | run ... | end (store)

    The usage is not zero where another router began the answer. What was reused of the prompt is told if it can be
    counted: see `counts_reuse`.
    """

    def __init__(self, usage: Usage, started: float, claim_s: float, clock: Callable[[], float]) -> None:
        self.usage = usage
        self.now = clock
        self.reuse = PromptReuse()
        self.counts_reuse = True  # False where models read other texts' tokens, or another router fed them
        self._started = started - usage.total_time_us / 1e6
        self._idle_since = started + claim_s  # no run that decodes has gone on since
        usage.breakdown.store_us += int(claim_s * 1e6)

    def since_us(self, moment: float) -> int:
        return int((self.now() - moment) * 1e6)

    def count_kept(self, model: Model, num_tokens: int) -> None:
        """Counts tokens that are kept; the answer has taken until now."""
        usage = self.usage
        if model is Model.SLM:
            usage.num_slm_tokens += num_tokens
        else:
            usage.num_llm_tokens += num_tokens
        if num_tokens:
            usage.total_time_us = self.since_us(self._started)
            usage.time_to_first_token_us = usage.time_to_first_token_us or usage.total_time_us

    def count_discarded(self) -> None:
        self.usage.num_discarded_proposals += 1

    def count_consultation(self) -> None:
        self.usage.num_consultations += 1

    def count_kept_consultations(self, num: int) -> None:
        self.usage.num_kept_consultations += num

    def count_switch(self, num: int = 1) -> None:
        """Counts a hand-over; -1 takes one back of which nobody will hear."""
        self.usage.num_switches += num

    def count_sent(self, num_tokens: int) -> None:
        """Counts tokens that a model is fed because it has not seen them; negative if they did not arrive."""
        self.usage.num_catch_up_tokens += num_tokens

    def count_ahead(self, num_kept: int, num_discarded: int) -> None:
        self.usage.num_run_ahead_tokens += num_kept
        self.usage.num_run_ahead_discarded += num_discarded

    def count_draft(self, num_tokens: int) -> None:
        self.usage.num_draft_tokens += num_tokens

    def count_accepted(self, num_tokens: int) -> None:
        """Counts draft tokens that the LLM would have written itself; negative for those behind a stop string."""
        self.usage.num_accepted_draft_tokens += num_tokens

    def count_trial(self, num_tokens: int, began: float) -> None:
        self.usage.record_trial(num_tokens, self.since_us(began))

    def set_exit(self, position: int, confidence: float) -> None:
        """Notes where the thinking ended early, and how sure the trial was."""
        self.usage.exit_position, self.usage.exit_confidence = position, confidence

    def run_begins(self) -> float:
        """A run that decodes begins: until now the router was at work. Returns the time."""
        now = self.now()
        self.usage.breakdown.routing_us += int((now - self._idle_since) * 1e6)
        return now

    def run_is_over(self) -> None:
        """No run that decodes is going on from now on."""
        self._idle_since = self.now()

    def waited_for_model(self, model: Model, since: float) -> float:
        """A model was waited for, since a moment until now. Returns the time."""
        now = self.now()
        took_us = int((now - since) * 1e6)
        if model is Model.SLM:
            self.usage.slm_time_us += took_us
        else:
            self.usage.llm_time_us += took_us
        return now

    def waited_for_store(self, since: float) -> float:
        """The journal had no room, since a moment until now. Returns for how long, in s."""
        waited_s = self.now() - since
        self.usage.breakdown.store_us += int(waited_s * 1e6)
        return waited_s

    def count_run(self, model: Model, finish: RunFinish, took_us: int | None = None) -> None:
        """Adds what a run took, by the worker's own timing.

        Args:
            took_us: as seen from here, of a run that decodes; if the run itself took longer, it ran ahead for the rest.
                None: it ran in the background only.
        """
        breakdown = self.usage.breakdown
        self.usage.num_cached_tokens += finish.num_cached_tokens
        if model is Model.SLM:
            self.usage.slm_forward_us += finish.forward_us
        else:
            self.usage.llm_forward_us += finish.forward_us
        if took_us is None:
            breakdown.background_us += finish.forward_us
            return
        self.usage.num_consultations += finish.num_consultations
        share = min(1.0, took_us / finish.total_us) if finish.total_us else 1.0
        forward_us = int(finish.forward_us * share)
        breakdown.background_us += finish.forward_us - forward_us
        if model is Model.SLM:
            breakdown.slm_forward_us += forward_us
        else:
            breakdown.llm_forward_us += forward_us
        breakdown.scheduling_us += int(finish.host_us * share)
        breakdown.waiting_us += int((finish.queue_us + finish.wait_us) * share)
        breakdown.transport_us += max(0, took_us - finish.total_us)

    def end(self) -> None:
        """The end is being stored: since the last run only the store was waited for."""
        # Too few where a run broke off, which has not said how often it asked; but what is kept was asked.
        self.usage.num_consultations = max(self.usage.num_consultations, self.usage.num_kept_consultations)
        self.usage.num_reused_prompt_tokens = self.reuse.num_tokens() if self.counts_reuse else None
        self.usage.breakdown.store_us += self.since_us(self._idle_since)
        self.usage.total_time_us = self.since_us(self._started)
