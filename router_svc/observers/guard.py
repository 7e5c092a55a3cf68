"""Never slower than the LLM alone: what routed and LLM-only answers cost at a load, and which of them to write now.

Cost. Time per answer is what a user waits for and, with a fixed number of answers being written, the inverse of
throughput; but answers differ in length because questions do. So it is taken apart: time per token at this load (a
median: one that waited for a lost worker must not decide) times the length of a trace. Routing changes both, hence

    ratio = routed / LLM-only = (t_routed * n_routed) / (t_llm * n_llm)

Lengths do not depend on load and are pooled over all of them. n_llm / n_routed is the ratio of the mean lengths seen,
drawn towards 1 while few were: it is right only as far as both were asked similar questions, which holds where the
guard chooses between them by turns. With no LLM-only answer it is 1, although routing is known to shorten traces, for
the two errors are not alike: taking routing for too dear brings LLM-only answers, which show the mistake, while taking
it for cheap would bring none.

By the same argument t_llm, where too few LLM-only answers are seen, is estimated rather low: the LLM's forwards in the
runs that it decoded within routed answers, per token (no wire, no waiting, a smaller batch). As soon as there are
LLM-only answers, their time over that estimate is kept as its correction. It is no lower bound: what catches the LLM up
in a run's first step is in it, and where that is dear and segments are short, only LLM-only answers show their cost.

Forgetting. The weight of an answer halves with every `half_life` answers that finish after it, at any load; a sample
keeps at most that many. It counts once the weights add up to `min_answers`.

Hysteresis. Routing loses at a load after `patience` answers in a row with a ratio over 1.05 by more than one standard
error, and no longer after as many with a ratio under 0.95. Meanwhile every `explore_every`-th answer is still routed.

What it cannot see: those few run beside LLM-only ones, on an SLM that is idle, and look cheaper than many would be; the
state may then swing, as slowly as answers are forgotten. All routed policies count as one.

It knows no wire and no clock: the same answers in the same order give the same choices.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from router_svc.observers.decaying import DecayingSample

# A ratio this far from 1 counts; between the two the state stays as it is, so that it does not swing.
SLOWER, FASTER = 1.05, 0.95
# So many answers of each kind weigh as much as the belief that lengths are equal.
_PRIOR_ANSWERS = 16
# Few buckets, because each must see `min_answers` of its own before it knows anything; the last has no upper end.
_NUM_BUCKETS = 6


@dataclass(frozen=True, slots=True)
class Observation:
    """What an answer took that came to its end, undisturbed from its first token on."""

    routed: bool  # whether both models could write; otherwise the LLM wrote alone
    load: float  # mean number of answers that were being written meanwhile, this one included
    time_us: int
    num_tokens: int  # at least 1
    llm_forward_us: int = 0  # in runs that decode
    num_llm_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GuardState:
    """What is known at a load. Times are those of an answer as long as a routed one usually is; 0 if unknown."""

    llm_only: bool  # whether routing loses, so that new answers should be LLM-only
    reason: str  # says in words what was compared and how it came out
    routed_us: int = 0
    llm_only_us: int = 0
    num_routed: int = 0
    num_llm_only: int = 0


def bucket_of(load: float) -> int:
    """The bucket of a load; loads of 1, 2, 3-5, 6-11, 12-22 and 23 or more answers are alike.

    Powers of two lie in the middle of a bucket, so that what a client with 8 answers at a time costs, whose mean is a
    little less, is found where its next answer looks.
    """
    return min(round(math.log2(max(load, 1))), _NUM_BUCKETS - 1)


def bucket_name(bucket: int) -> str:
    """The bucket's name in metrics and reasons, such as "6-11 sessions"."""
    low, high = math.ceil(2 ** (bucket - 0.5)), math.floor(2 ** (bucket + 0.5))
    if bucket == _NUM_BUCKETS - 1:
        return f"{low} or more sessions"
    return "1 session" if high == 1 else f"{low} sessions" if low == high else f"{low}-{high} sessions"


@dataclass(slots=True)
class _LoadBucket:
    """What was seen at one load: times per token in us, and whether routing loses."""

    routed: DecayingSample
    llm_only: DecayingSample
    llm_forward: DecayingSample  # of the LLM's own forwards within routed answers, per token that it wrote
    correction: float = 1.0  # time of an LLM-only token over `llm_forward`, as it was when both were known last
    loses: bool = False  # the state that new answers are chosen by
    streak: int = 0  # number of verdicts in a row against that state
    turn: int = 0  # number of answers that were chosen while routing lost


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Times of a typical answer in us, routed and LLM-only, and the relative error of their ratio."""

    routed_us: float
    llm_only_us: float
    error: float
    estimated: bool

    @property
    def ratio(self) -> float:
        return self.routed_us / self.llm_only_us


class Guard:
    """Compares routed with LLM-only answers of one pair of workers, and says which kind the next should be.

    Args:
        half_life: number of answers after which one counts half.
        min_answers: weight that a sample must have before it counts.
        patience: number of verdicts in a row that change the state.
        explore_every: while routing loses, one answer in so many is still routed.
    """

    def __init__(self, *, half_life: int = 64, min_answers: int = 6, patience: int = 4, explore_every: int = 8) -> None:
        self._half_life = half_life
        self._min_answers = min_answers
        self._patience = patience
        self._explore_every = explore_every
        self._pair: Hashable = None
        self._forget()

    def set_pair(self, pair: Hashable) -> None:
        """Says which workers are there now, and forgets all if they are not those of before.

        What others cost, or a worker before its restart, which may have been given another model, says nothing of them.
        """
        if pair != self._pair:
            self._pair = pair
            self._forget()

    def choose(self, load: int) -> str:
        """Why a new answer, one of `load`, should be LLM-only; "" if it should be routed. Call it once per answer."""
        state = self.state(load)
        if not state.llm_only:
            return ""
        at = self._loads[bucket_of(load)]
        at.turn += 1
        # Every so many-th is routed: without any, nothing would show that routing pays again.
        return state.reason if at.turn % self._explore_every else ""

    def observe(self, answer: Observation) -> None:
        self._now += 1
        at = self._loads[bucket_of(answer.load)]
        per_token = max(1, answer.time_us) / answer.num_tokens
        if answer.routed:
            at.routed.add(self._now, per_token)
            if answer.num_llm_tokens and answer.llm_forward_us:
                at.llm_forward.add(self._now, answer.llm_forward_us / answer.num_llm_tokens)
            self._routed_lengths.add(self._now, answer.num_tokens)
        else:
            at.llm_only.add(self._now, per_token)
            self._llm_only_lengths.add(self._now, answer.num_tokens)
        # While routing pays, LLM-only answers are forgotten one by one. What they showed about the estimate that takes
        # their place is kept, so the two meet without a jump.
        if self._known(at.llm_only) and self._known(at.llm_forward):
            at.correction = at.llm_only.median(self._now)[0] / at.llm_forward.median(self._now)[0]
        self._judge(at)

    def state(self, load: float) -> GuardState:
        return self._state(bucket_of(load))

    def states(self) -> dict[str, GuardState]:
        """What is known at each load at which answers were seen, by the load's name."""
        seen = (bucket for bucket, at in enumerate(self._loads) if at.routed or at.llm_only)
        return {bucket_name(bucket): self._state(bucket) for bucket in seen}

    def _state(self, bucket: int) -> GuardState:
        at = self._loads[bucket]
        nums = {"num_routed": len(at.routed), "num_llm_only": len(at.llm_only)}
        counts = f"n={len(at.routed)} and {len(at.llm_only)}"
        verdict = self._verdict(at)
        if verdict is None:
            words = f"too few answers at {bucket_name(bucket)} to say whether routing pays"
            return GuardState(False, f"{words} ({counts}).", **nums)
        estimated = ", LLM-only time estimated from its forwards" if verdict.estimated else ""
        reason = (
            f"routed answers took {verdict.ratio:.2f}x as long as LLM-only ones at {bucket_name(bucket)} "
            f"({counts}{estimated})."
        )
        return GuardState(at.loses, reason, round(verdict.routed_us), round(verdict.llm_only_us), **nums)

    def _forget(self) -> None:
        # One more for each answer: the only clock there is, so that an idle router forgets nothing.
        self._now = 0
        self._routed_lengths, self._llm_only_lengths = (DecayingSample(self._half_life) for _ in range(2))
        self._loads: list[_LoadBucket] = []
        for _ in range(_NUM_BUCKETS):
            routed, llm_only, llm_forward = (DecayingSample(self._half_life) for _ in range(3))
            self._loads.append(_LoadBucket(routed, llm_only, llm_forward))

    def _known(self, figure: DecayingSample) -> bool:
        return figure.weight(self._now) >= self._min_answers

    def _judge(self, at: _LoadBucket) -> None:
        """Counts verdicts against the state; enough in a row turn it. Without a verdict routing does not lose."""
        verdict = self._verdict(at)
        if verdict is None:
            at.loses, at.streak = False, 0
            return
        # Harder to lose than to win back: to say that routing loses, the ratio less one standard error must be too
        # high; to say that it no longer does, the ratio itself must be low.
        against = verdict.ratio < FASTER if at.loses else verdict.ratio * math.exp(-verdict.error) > SLOWER
        at.streak = at.streak + 1 if against else 0
        if at.streak >= self._patience:
            at.loses, at.streak = not at.loses, 0

    def _verdict(self, at: _LoadBucket) -> _Verdict | None:
        """What a typical answer takes at a load, routed and LLM-only; None while either is unknown."""
        if not self._known(at.routed):
            return None
        routed, routed_variance = at.routed.median(self._now)
        estimated = not self._known(at.llm_only)
        if not estimated:
            llm, llm_variance = at.llm_only.median(self._now)
        elif self._known(at.llm_forward):
            llm, llm_variance = at.llm_forward.median(self._now)
            llm *= at.correction
        else:
            return None
        longer, longer_variance = self._llm_only_over_routed_length()
        length, _ = self._routed_lengths.mean(self._now)
        error = math.sqrt(routed_variance + llm_variance + longer_variance)
        return _Verdict(routed * length, llm * longer * length, error, estimated)

    def _llm_only_over_routed_length(self) -> tuple[float, float]:
        """How much longer an LLM-only trace is, drawn towards 1 while few were seen, and its relative variance."""
        num = min(self._routed_lengths.weight(self._now), self._llm_only_lengths.weight(self._now))
        if num == 0:
            return 1.0, 0.0
        trust = num / (num + _PRIOR_ANSWERS)
        # exp(trust * log(ratio)): the mean of the logarithms of the ratio seen and of 1, weighted by their answers.
        llm_only, llm_only_variance = self._llm_only_lengths.mean(self._now)
        routed, routed_variance = self._routed_lengths.mean(self._now)
        return (llm_only / routed) ** trust, trust**2 * (llm_only_variance + routed_variance)
