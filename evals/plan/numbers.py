"""The least workers that hold a goal under a load, and how many routers and gateways stand before them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from evals.plan.fleet import Fleet, State
from evals.plan.load import Role
from rstitch.errors import invalid

_MANY = 1000  # times as many workers as are needed are as good as idle ones
_ROUNDS = 12
_SIGMAS = 1.645  # sessions under way at 95% of times: they come and go like a Poisson count


@dataclass(frozen=True, slots=True)
class Goal:
    """What a fleet is to hold: at most such a share of its saturation, and of answers 95% within so many seconds."""

    max_load: float = 0.7
    p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A fleet that holds a goal at a rate, and which bound asked for the number of each role: steps, pages, latency."""

    fleet: Fleet
    state: State
    bounds: Mapping[Role, str]


def room_used(fleet: Fleet, state: State, role: Role) -> float:
    """The share of a worker's cache that sessions under way take at a full hour: above 1 some are computed twice."""
    each = state.under_way / fleet.numbers[role]
    if not each < math.inf:
        return math.inf
    return (each + _SIGMAS * math.sqrt(each)) / max(1, fleet.sessions_that_fit(role))


def least(fleet: Fleet, rate: float, goal: Goal) -> Chosen:
    """Finds the numbers of workers, whatever those of `fleet` are. Raises RstitchError if no number holds the goal."""
    roles = fleet.taking_part
    one = replace(fleet, numbers=dict.fromkeys(roles, 1))
    numbers = {role: max(1, math.ceil(rate / (goal.max_load * one.saturation(role)))) for role in roles}
    bounds = dict.fromkeys(roles, "steps")
    fleet = replace(fleet, numbers=numbers)
    while short := [role for role in roles if room_used(fleet, fleet.at(rate), role) > 1]:
        state = fleet.at(rate)
        for role in short:
            each = max(1, fleet.sessions_that_fit(role))
            wanted = max(numbers[role] + 1, math.ceil(state.under_way / each))
            numbers, bounds = numbers | {role: wanted}, bounds | {role: "pages"}
        fleet = replace(fleet, numbers=numbers)
    if goal.p95_s is not None and not _within(fleet, rate, goal.p95_s):
        fleet = _faster(fleet, rate, goal.p95_s)
        bounds = {role: "latency" if fleet.numbers[role] > numbers[role] else bounds[role] for role in roles}
    return Chosen(fleet, fleet.at(rate), bounds)


def least_among(fleet: Fleet, sessions: int, goal: Goal) -> Chosen:
    """The same for so many sessions that each wait for their answer: the rate is what these workers then make of it."""
    few = replace(fleet, numbers=dict.fromkeys(fleet.taking_part, sessions))
    rate = few.among(sessions).rate
    for _ in range(_ROUNDS):
        chosen = least(fleet, rate, goal)
        again = chosen.fleet.among(sessions).rate
        if abs(again - rate) <= 0.01 * rate:
            break
        rate = again
    return Chosen(chosen.fleet, chosen.fleet.among(sessions), chosen.bounds)


def processes(core_s: float, max_load: float) -> int:
    """How many processes of one core each have so many seconds of work a second, none fuller than that."""
    return max(1, math.ceil(core_s / max_load))


def _within(fleet: Fleet, rate: float, p95_s: float) -> bool:
    return fleet.at(rate).latency.quantile_s(0.95) <= p95_s


def _faster(fleet: Fleet, rate: float, p95_s: float) -> Fleet:
    """More of each role alike until it is enough, then of each as few as it can be, but no fewer than before."""
    before = fleet.numbers
    idle = replace(fleet, numbers={role: _MANY * count for role, count in before.items()})
    if not _within(idle, rate, p95_s):
        what = f"idle workers take {idle.at(rate).latency.quantile_s(0.95):.3g} s for 95% of these answers."
        raise invalid("--target-p95", what, "Give more, or faster cards, fewer bits of a weight, shorter answers.")

    def times(factor: int) -> Fleet:
        return replace(fleet, numbers={role: math.ceil(count * factor / 16) for role, count in before.items()})

    factor = _smallest(16, 16 * _MANY, lambda factor: _within(times(factor), rate, p95_s))
    found = times(factor)
    for role in sorted(found.numbers, key=lambda role: -found.numbers[role]):
        others = found.numbers

        def holds(count: int, others: Mapping[Role, int] = others, role: Role = role) -> bool:
            return _within(replace(fleet, numbers={**others, role: count}), rate, p95_s)

        found = replace(fleet, numbers={**others, role: _smallest(before[role], others[role], holds)})
    return found


def _smallest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest number from `low` to `high` for which something holds that holds for all above, and for `high`."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
