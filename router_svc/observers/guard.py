"""Never slower than the LLM alone: compares what routed and LLM-only answers take at a load, and chooses accordingly.

What an answer takes depends on what runs beside it. A lone LLM-only answer among routed ones waits for an SLM that has
half of the machine, and a lone routed one among LLM-only ones has an SLM for itself: neither says what many would take.
So the two kinds are compared by turns ("switchback"): usually all answers are of the favoured kind, and now and then,
in a *look*, all new ones are of the other, until it is known which is faster.

    routed, favoured                look: LLM-only              routed, favoured
    r  r  r  r  r  r  r  r  r  |  l  l  l  L  L  L  (l  l  l) |  r  r  r  R  R  R  R  ...     capitals: are timed

Only answers that had little of the other kind beside them are timed (`min_purity`), so a look begins and ends with as
many answers as run at once that say nothing. It ends when the two are told apart by two standard errors, or after
`max_begun` answers. The shift between the two samples, of one look beside what ran just before it, is that of Hodges
and Lehmann; the looks are joined by a Kalman filter (both in `comparing`).

What looks cost is bounded. The first comes once as many answers of the favoured kind are timed as run at once, but
`min_answers` at least; the next after `2**first_rest` times as many answers as it took. Each that changes nothing
doubles that, up to `2**last_rest` times. A favoured kind that has become much slower since it was last compared is
looked past at once.

Time per answer is what a user waits for, and answers differ in length because questions do. So it is taken apart: time
per token at this load times the length of a trace. Routing changes both, hence

    ratio = routed / LLM-only = (t_routed * n_routed) / (t_llm * n_llm)

Lengths do not depend on load and are pooled over all of them. n_llm / n_routed is the ratio of the mean lengths seen,
drawn towards 1 while few were: it is right as far as both were asked similar questions.

Hysteresis. Routing loses once the ratio is over 1.05 for sure, and again pays once it is under 0.95 for sure.

All routed policies count as one. It knows no wire and no clock: the same answers in the same order give the same
choices.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from statistics import median

from router_svc.observers.comparing import Difference, after, shift
from router_svc.observers.decaying import DecayingSample
from router_svc.observers.load import Kind

# Logarithms of the ratios at which routing loses, and at which it pays again.
SLOWER, FASTER = math.log(1.05), math.log(0.95)
# Standard errors at which the favoured kind is given up, and at which a look ends because it is not.
_SURE_LOST, _SURE_KEPT = 2.5, 2.0
# So many answers of each kind weigh as much as the belief that lengths are equal; a length's weight halves with so many
# answers after it.
_PRIOR_ANSWERS, _HALF_LIFE = 16, 64
# Few buckets, because each must see answers of its own before it knows anything; the last has no upper end.
_NUM_BUCKETS = 6
_NUM_TIMES = 32  # answers of each kind that are compared, the latest
# The favoured kind is looked past early if its last so many answers took so much longer than when it was compared.
_RECENT, _MUCH_SLOWER = 8, math.log(1.25)


@dataclass(frozen=True, slots=True)
class Observation:
    """What an answer took that came to its end, undisturbed from its first token on."""

    routed: bool  # whether both models could write; otherwise the LLM wrote alone
    load: float  # mean number of answers that were being written meanwhile, this one included
    time_us: int
    num_tokens: int  # at least 1
    purity: float = 1.0  # as in `load.Beside`


@dataclass(frozen=True, slots=True)
class Choice:
    """The kind of a new answer, why that is not the one asked for ("" if it is), and whether it belongs to a look."""

    kind: Kind
    reason: str = ""
    is_look: bool = False


@dataclass(frozen=True, slots=True)
class GuardState:
    """What is known at a load. Times are those of an answer as long as a routed one usually is; 0 if unknown."""

    llm_only: bool  # whether routing loses, so that new answers should be LLM-only
    reason: str  # says in words what was compared and how it came out
    routed_us: int = 0
    llm_only_us: int = 0
    num_routed: int = 0
    num_llm_only: int = 0


@dataclass(frozen=True, slots=True)
class LookRules:
    """When the guard looks at the kind that is not favoured, and when it has seen enough; in answers.

    Attributes:
        min_purity: what an answer must have had beside it of its own kind to be timed.
        min_answers: of the favoured kind before a look.
        min_seen: of the other kind before a look says anything.
        max_begun: in a look, besides twice as many as run at once.
        first_rest, last_rest: so many times a look's length, as powers of 2, lie between it and the next.
    """

    min_purity: float = 0.7
    min_answers: int = 6
    min_seen: int = 3
    max_begun: int = 12
    first_rest: int = 3
    last_rest: int = 6


# A bucket reaches half an octave to each side of its power of two; once in it, the load may go so far from that.
_HELD_OCTAVES = 0.75


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


def _recent_times() -> tuple[deque[float], deque[float]]:
    return deque(maxlen=_NUM_TIMES), deque(maxlen=_NUM_TIMES)


@dataclass(slots=True)
class _AtLoad:
    """What was seen at one load. Times are logarithms of us per token, by kind, since the last comparison ended."""

    favoured: Kind = Kind.ROUTED
    times: tuple[deque[float], deque[float]] = field(default_factory=_recent_times)
    nums: list[int] = field(default_factory=lambda: [0, 0])  # answers that were timed, by kind, since ever
    known: Difference | None = None  # routed over LLM-only, per token, of all comparisons that have ended
    llm_only_time: float = 0.0  # typical of the last comparison
    before: list[float] = field(default_factory=list)  # the favoured kind's times then
    begun: int = 0  # in the present look
    looking: bool = False
    rest: int = 0  # favoured answers to begin before the next look
    doublings: int = 0  # of that number, for the look after

    @property
    def other(self) -> Kind:
        return Kind(1 - self.favoured)


class Guard:
    """Compares routed with LLM-only answers of one pair of workers, and says which kind the next should be."""

    def __init__(self, rules: LookRules = LookRules()) -> None:
        self._rules = rules
        self._pair: Hashable = None
        self._forget()

    def set_pair(self, pair: Hashable) -> None:
        """Says which workers are there now, and forgets all if they are not those of before.

        What others cost, or a worker before its restart, which may have been given another model, says nothing of them.
        """
        if pair != self._pair:
            self._pair = pair
            self._forget()

    def choose(self, load: int) -> Choice:
        """What a new answer should be, one of `load`. Call it once per answer that the guard may choose for."""
        bucket = self._bucket = self._bucket_at(load)
        at = self._loads[bucket]
        if at.looking and at.begun >= 2 * load + self._rules.max_begun:
            self._end_comparison(at, self._compared(at))
        if not at.looking:
            at.rest -= 1
            if at.rest < 0 and len(at.times[at.favoured]) >= min(max(self._rules.min_answers, load), _NUM_TIMES):
                at.looking = True
                at.times[at.other].clear()  # of answers that nobody chose, at some time or other
        kind = at.favoured
        if at.looking:
            at.begun += 1
            kind = at.other
        if kind is Kind.ROUTED:
            return Choice(kind, is_look=at.looking)
        reason = self._state(bucket).reason
        if at.looking:
            nums = f"n={at.nums[Kind.ROUTED]} and {at.nums[Kind.LLM_ONLY]}"
            reason = f"a look at what LLM-only answers take at {bucket_name(bucket)} beside routed ones ({nums})."
        return Choice(kind, reason, at.looking)

    def observe(self, answer: Observation) -> None:
        """Takes in what an answer took, and turns or ends a look if that settles it."""
        kind = Kind.ROUTED if answer.routed else Kind.LLM_ONLY
        self._now += 1
        self._lengths[kind].add(self._now, answer.num_tokens)
        if answer.purity < self._rules.min_purity:
            return
        at = self._loads[self._bucket_at(answer.load)]
        at.times[kind].append(math.log(max(1, answer.time_us) / answer.num_tokens))
        at.nums[kind] += 1
        self._judge(at)

    def state(self, load: float) -> GuardState:
        return self._state(self._bucket_at(load))

    def states(self) -> dict[str, GuardState]:
        """What is known at each load at which answers were seen, by the load's name."""
        return {bucket_name(bucket): self._state(bucket) for bucket, at in enumerate(self._loads) if any(at.nums)}

    def _bucket_at(self, load: float) -> int:
        """The bucket of a load, which is the present one until the load has left it for good.

        With 6 answers at a time, now 5 and now 6 run: were these two buckets, each look would have answers of the
        favoured kind beside it, begun in the other.
        """
        is_near = abs(math.log2(max(load, 1)) - self._bucket) <= _HELD_OCTAVES
        return self._bucket if is_near else bucket_of(load)

    def _state(self, bucket: int) -> GuardState:
        at = self._loads[bucket]
        num_routed, num_llm_only = at.nums
        counts = f"n={num_routed} and {num_llm_only}"
        known, llm_only_time = self._compared(at) or at.known, at.llm_only_time
        if known is None:
            words = f"too few answers at {bucket_name(bucket)} to say whether routing pays ({counts})."
            return GuardState(False, words, num_routed=num_routed, num_llm_only=num_llm_only)
        if at.times[Kind.LLM_ONLY]:
            llm_only_time = median(at.times[Kind.LLM_ONLY])
        longer, _ = self._llm_only_over_routed_length()
        length = self._lengths[Kind.ROUTED].mean(self._now)[0] if self._lengths[Kind.ROUTED] else 1.0
        ratio = math.exp(known.value) / longer
        llm_only_us = math.exp(llm_only_time) * longer * length
        reason = f"routed answers took {ratio:.2f}x as long as LLM-only ones at {bucket_name(bucket)} ({counts})."
        is_llm_only = at.favoured is Kind.LLM_ONLY
        return GuardState(is_llm_only, reason, round(ratio * llm_only_us), round(llm_only_us), num_routed, num_llm_only)

    def _forget(self) -> None:
        # One more for each answer: the only clock there is, so that an idle router forgets nothing.
        self._now = 0
        self._bucket = 0  # of the last answer begun
        self._lengths = DecayingSample(_HALF_LIFE), DecayingSample(_HALF_LIFE)
        self._loads = [_AtLoad() for _ in range(_NUM_BUCKETS)]

    def _compared(self, at: _AtLoad) -> Difference | None:
        """What is known of routed over LLM-only per token with the present comparison; None without one."""
        routed, llm_only = at.times
        if len(at.times[at.favoured]) < self._rules.min_answers or len(at.times[at.other]) < self._rules.min_seen:
            return None
        return after(at.known, shift(routed, llm_only))

    def _judge(self, at: _AtLoad) -> None:
        """Favours the other kind, or ends a look, if that much is sure."""
        known = self._compared(at)
        if known is None:
            self._look_early(at)
            return
        lost, others = self._lost(at, known), at.times[at.other]
        if lost > _SURE_LOST:
            at.favoured, at.doublings = at.other, 0
            self._end_comparison(at, known)
        elif (lost < -_SURE_KEPT) if at.looking else len(others) == others.maxlen:
            self._end_comparison(at, known)

    def _lost(self, at: _AtLoad, known: Difference) -> float:
        """By how many standard errors the favoured kind should not be favoured any more; negative: it should."""
        longer, variance = self._llm_only_over_routed_length()
        bound, sign = (SLOWER, 1) if at.favoured is Kind.ROUTED else (FASTER, -1)
        return sign * (known.value - math.log(longer) - bound) / math.sqrt(known.error**2 + variance)

    def _look_early(self, at: _AtLoad) -> None:
        """Begins a look with the next answer if the favoured kind has become much slower since it was compared."""
        recent = list(at.times[at.favoured])[-_RECENT:]
        if at.looking or at.rest <= 0 or not at.before or len(recent) < _RECENT:
            return
        slower = shift(recent, at.before)
        if slower.value - _SURE_LOST * slower.error > _MUCH_SLOWER:
            at.rest, at.doublings, at.before = 0, 0, []

    def _end_comparison(self, at: _AtLoad, known: Difference | None) -> None:
        """Keeps what was compared, and rests for as long as the look deserves."""
        if known is not None:
            at.known = known
            at.llm_only_time = median(at.times[Kind.LLM_ONLY])
        # One that rather spoke against the favoured kind, but not for sure, is soon followed by another.
        in_doubt = known is not None and self._lost(at, known) > 0
        rules = self._rules
        doublings = min(rules.first_rest + (-1 if in_doubt else at.doublings), rules.last_rest)
        at.rest = max(at.begun, rules.min_answers) << doublings
        at.doublings += not in_doubt
        at.before = list(at.times[at.favoured])
        at.looking, at.begun = False, 0
        for times in at.times:
            times.clear()

    def _llm_only_over_routed_length(self) -> tuple[float, float]:
        """How much longer an LLM-only trace is, drawn towards 1 while few were seen, and its relative variance."""
        routed, llm_only = self._lengths
        num = min(routed.weight(self._now), llm_only.weight(self._now))
        if num == 0:
            return 1.0, 0.0
        trust = num / (num + _PRIOR_ANSWERS)
        # exp(trust * log(ratio)): the mean of the logarithms of the ratio seen and of 1, weighted by their answers.
        llm_only_mean, llm_only_variance = llm_only.mean(self._now)
        routed_mean, routed_variance = routed.mean(self._now)
        return (llm_only_mean / routed_mean) ** trust, trust**2 * (llm_only_variance + routed_variance)
