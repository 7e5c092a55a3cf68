"""What becomes of a forward's outcome: tokens kept, drafts verified, runs ended.

It knows one step's numbers and the books of sessions and runs; it neither schedules nor computes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.scheduler import Scheduler
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.counters import Counters
from model_worker.engine.errors import ForwardFailed
from model_worker.engine.forward.outcome import Outcome
from model_worker.engine.observing import Observe, Observed
from model_worker.engine.types import (
    Event,
    FinishReason,
    Handoff,
    Limits,
    Proposal,
    Returns,
    RunFailed,
    RunFinished,
    TokenKept,
    Verdict,
)

_NOT_FINITE = "the model's logits are not finite."


@dataclass(frozen=True, slots=True, eq=False)
class Committer:
    """Puts what a step computed into the sessions, and says as events what came of each run."""

    _scheduler: Scheduler
    _table: SessionTable
    _limits: Limits
    _stop_tokens: frozenset[int]  # the model's own; a run may name others
    _counters: Counters  # the engine's; kept tokens are counted here

    def commit(self, rows: Sequence[Row], outcome: Outcome | None, spoilt: Sequence[Row] = ()) -> list[Event]:
        """Returns the events of a step; `outcome` is None where no row asked for a distribution.

        `spoilt` rows left in the cache what is not finite, whatever their distributions look like.
        """
        # The outcome has the distributions of the rows that ask for one, in the order of the rows:
        #
        #   rows      decode | chunk of a prompt | its last chunk | catch-up | draft of 2 tokens
        #   outcome   0      |                   | 1              |          | 2, 3, 4
        events: list[Event] = []
        index = 0
        all_finite = not spoilt and (outcome is None or not math.isnan(sum(outcome.choices.entropies)))
        for row in rows:
            num_asked = row.num_asked  # before a draft is verified: then it is gone
            if all_finite or _is_finite(row, outcome, range(index, index + num_asked), spoilt):
                events += self._commit_row(row, outcome, index)
            elif len(rows) > 1:
                # It may have read, masked, what another row wrote in this same step: 0 * NaN is NaN. Which of them it
                # began with does not show, so each is computed again in a step of its own. A row that is finite has
                # read nothing of it.
                self._compute_alone(row)
            elif (
                row.run.draft
                and outcome is not None
                and (row in spoilt or math.isnan(outcome.choices.entropies[index]))
            ):
                # Likewise within a row: a drafted token may be what the one before the draft has read, or what is left.
                row.run.session.cut(row.run.request.end)
                row.run.draft = ()
                self._compute_alone(row)
            else:
                is_told = num_asked and row not in spoilt  # by its distributions
                events += self._commit_row(row, outcome, index) if is_told else self._end_spoilt(row)
            index += num_asked
        return events

    def _commit_row(self, row: Row, outcome: Outcome | None, index: int) -> list[Event]:
        run = row.run
        run.computed(row.num_tokens)
        self._scheduler.reunite(run)
        events: list[Event] = []
        if run.request.observe is not None:
            events = self._tell(row, run.request.observe, outcome, index)
        elif row.is_last and not run.request.wants_token:
            events = [self.finish(run, FinishReason.LENGTH)]
        elif row.is_last:
            assert outcome is not None
            events = (self._verify if run.request.draft else self._advance)(run, outcome, index)
        self._table.leave_windows(run.session)
        self._table.offer(run.session)  # now that nothing of it is on trial, and what is not finite is forgotten
        return events

    def _compute_alone(self, row: Row) -> None:
        """Has a row that is not finite computed once more, in a step of its own."""
        # In several, where a session can go back only farther than to where the row began.
        self._table.spoil(row.run.session, row.start)
        self._scheduler.isolate(row.run, row.start + 1)

    def _end_spoilt(self, row: Row) -> list[Event]:
        """Ends a run that is not finite by itself where no distribution says so. Catch-up leaves the tokens held."""
        run = row.run
        self._table.spoil(run.session, row.start)
        if not run.request.wants_token and run.request.observe is None:
            return [self.finish(run, FinishReason.LENGTH)]
        self._scheduler.remove(run)
        return [RunFailed(run.run_id, _forward_failed(_NOT_FINITE))]

    def finish(
        self, run: Run, reason: FinishReason, proposal: Proposal | None = None, verdict: Verdict | None = None
    ) -> RunFinished:
        """Ends a run where it stands; what it appended and kept stays in the session."""
        self._scheduler.remove(run)
        return self.end_event(run, reason, proposal, verdict)

    def end_event(
        self, run: Run, reason: FinishReason, proposal: Proposal | None = None, verdict: Verdict | None = None
    ) -> RunFinished:
        """Returns the end of a run that has left the scheduler already."""
        run.timing.total_us = int((time.perf_counter() - run.arrived) * 1e6)
        request, session = run.request, run.session
        num_accepted = common_prefix(session.tokens[request.end :], request.draft) if request.draft else 0
        return RunFinished(
            run.run_id, reason, session.held, run.timing, proposal, num_accepted, run.num_consultations, verdict
        )

    def fail(self, rows: Sequence[Row], error: Exception) -> list[Event]:
        """Ends the runs of a step whose forward raised; their sessions hold what they held, and no more is computed."""
        failure = _forward_failed(f"the model's forward failed: {error}.")
        failure.__cause__ = error
        for row in rows:
            self._table.spoil(row.run.session, row.start)  # whatever it had written by then
            self._scheduler.remove(row.run)
        return [RunFailed(row.run.run_id, failure) for row in rows]

    def _tell(self, row: Row, observe: Observe, outcome: Outcome | None, index: int) -> list[Event]:
        """Tells what was observed in a row, and the end of the run with its last one."""
        run, num_asked = row.run, row.num_asked
        events: list[Event] = []
        if num_asked:
            assert outcome is not None
            choices, first = outcome.choices, row.start + row.num_tokens - num_asked + 1
            if any(math.isnan(entropy) for entropy in choices.entropies[index : index + num_asked]):
                return self._fail_poisoned(run)
            places = [place for place in range(index, index + num_asked) if choices.entropies[place] > observe.above]
            events.append(
                Observed(
                    run.run_id,
                    num_asked,
                    tuple(first + place - index for place in places),
                    tuple(choices.tokens[place] for place in places),
                    tuple(choices.entropies[place] for place in places),
                    outcome.hidden_states(places),
                )
            )
        return [*events, self.finish(run, FinishReason.STEP)] if row.is_last else events

    def _fail_poisoned(self, run: Run) -> list[Event]:
        self._scheduler.remove(run)
        self._table.poison(run.session)
        return [RunFailed(run.run_id, _forward_failed(_NOT_FINITE))]

    def _advance(self, run: Run, outcome: Outcome, index: int) -> list[Event]:
        """Keeps the token of distribution `index`, or ends the run without it."""
        request, session, choices = run.request, run.session, outcome.choices
        token, entropy, logprob = choices.tokens[index], choices.entropies[index], choices.logprobs[index]
        if math.isnan(entropy):  # no bound holds for it: the token would be kept as if the model were sure
            return self._fail_poisoned(run)
        if (stuck := outcome.stuck.get(index)) is not None:
            self._scheduler.remove(run)
            return [RunFailed(run.run_id, stuck)]
        if request.returns is not None:
            return [self.finish(run, FinishReason.STEP, _proposal(run, outcome, index, request.returns))]
        handoff, meter = request.handoff, run.meter
        uncertainty = None
        if meter is not None:
            uncertainty = meter.read(entropy, logprob, outcome.margins.get(index, math.nan))
        signal = entropy if uncertainty is None else uncertainty
        verdict = None
        if handoff is not None and handoff.above is not None and signal > handoff.above:
            verdict = _verdict(run, handoff, outcome, index)
            if verdict is None or verdict.to_llm:
                proposal = _proposal(run, outcome, index, Returns(hidden_state=handoff.hidden_state), uncertainty)
                return [self.finish(run, FinishReason.HANDOFF, proposal, verdict)]
        session.tokens.append(token)
        run.num_kept += 1
        self._counters.num_kept_tokens += 1
        if meter is not None:
            meter.keep(entropy)
        if handoff is not None and handoff.consultant is not None:
            handoff.consultant.keep(entropy)
        others = outcome.alternatives.get(index)
        events: list[Event] = [TokenKept(run.run_id, token, entropy, logprob, uncertainty, verdict, others)]
        reason = None
        # A stop token comes first: it ends the answer, whatever bound or limit it meets as well.
        if token in (request.stop_tokens or self._stop_tokens):
            reason = FinishReason.STOP
        elif handoff is not None and handoff.below is not None and signal <= handoff.below:
            reason = FinishReason.HANDOFF
        elif run.num_kept == request.max_tokens:
            reason = FinishReason.LENGTH
        elif session.held == self._limits.context_length:
            reason = FinishReason.CONTEXT
        if reason is not None:
            events.append(self.finish(run, reason))
        return events

    def _verify(self, run: Run, outcome: Outcome, index: int) -> list[Event]:
        """Keeps the part of a draft that the model itself would have written, then its own next token.

        This is speculative decoding (arXiv 2211.17192) with the random numbers of its two samplings shared: as a choice
        is a function of (seed, position, logits), the tokens kept are those of decoding without a draft, also when they
        are sampled. That is more than having the same distribution, and it needs no distribution of the draft's.
        """
        # With e = run.request.end and d = len(draft):
        #
        #   position   e         e+1       ...  e+d-1       e+d
        #   draft      draft[0]  draft[1]  ...  draft[d-1]           in the session, computed in this step
        #   own        own[0]    own[1]    ...  own[d-1]    own[d]   what the model itself would write there
        #
        # With n = num_agreed, own[:n] == draft[:n] is kept, then own[n], the model's own next token. Below e+n the KV
        # is of kept tokens; from there on it is of rejected ones, and own[n] has none yet.
        session, draft, end = run.session, run.draft, run.request.end
        own = outcome.choices.tokens[index : index + run.num_asked]
        num_agreed = common_prefix(own, draft)
        if any(math.isnan(entropy) for entropy in outcome.choices.entropies[index : index + run.num_asked]):
            self._table.poison(session)  # also where only what is rejected is not finite
        # The kept tokens come back one by one: each may be a stop token, or the last that fits.
        run.draft = ()
        session.cut(end)
        events: list[Event] = []
        for place in range(index, index + num_agreed + 1):
            events += self._advance(run, outcome, place)
            if not isinstance(events[-1], TokenKept):
                break
        else:
            events.append(self.finish(run, FinishReason.LENGTH))
        self._table.uncompute(session, min(session.held, end + num_agreed))
        return events


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Returns how many tokens two rows begin with in common."""
    # Its twin is in router_svc/trajectory/types.py: neither may import the other, nor the engine a shared module.
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _is_finite(row: Row, outcome: Outcome | None, places: range, spoilt: Sequence[Row]) -> bool:
    """Returns whether a row's distributions are, or else what it left in the cache."""
    if row in spoilt:
        return False
    return outcome is None or not any(math.isnan(outcome.choices.entropies[place]) for place in places)


def _forward_failed(message: str) -> ForwardFailed:
    return ForwardFailed(message, remedy="Send the run again; if it fails again, see the worker's log.")


def _verdict(run: Run, handoff: Handoff, outcome: Outcome, index: int) -> Verdict | None:
    """Asks whether a signal above the bound ends the run; None where nobody is to be asked."""
    if handoff.consultant is None:
        return None
    run.num_consultations += 1
    entropy = outcome.choices.entropies[index]
    return handoff.consultant.ask(outcome.hidden_state(index), len(run.session.tokens), entropy)


def _proposal(run: Run, outcome: Outcome, index: int, returns: Returns, uncertainty: float | None = None) -> Proposal:
    choices = outcome.choices
    num_left = run.mask.num_left if run.mask is not None else outcome.logits.shape[1]
    return Proposal(
        token=choices.tokens[index],
        entropy=choices.entropies[index],
        logprob=choices.logprobs[index],
        uncertainty=uncertainty,
        hidden_state=outcome.hidden_state(index) if returns.hidden_state else b"",
        logits=outcome.raw_logits(index) if returns.top_logits == -1 else b"",
        top_logits=outcome.top_logits(index, min(returns.top_logits, num_left)) if returns.top_logits > 0 else (),
        alternatives=outcome.alternatives.get(index),
    )
