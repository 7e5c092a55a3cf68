"""Threads that share the cores of a machine: how much longer each takes for what it does. It knows no fleet.

A thread wants a core or does not, independently of others, and those that want one share the cores evenly, as a fair
scheduler has it; one thread has one core at most. So who computes beside k others takes max(1, (1 + k) / cores) times
as long, and a few threads wait less than as many customers as one likes would (which is Erlang's formula).

Who waits for a core wants it longer, so wanting is not quite independent: beside an exact queue the stretch is 7% too
long where five threads use 80% of two cores, a fifth where nearly all is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Threads:
    """So many threads that each keep a core busy for such a share of the time, by what they do while they have it."""

    used: float
    number: int = 1


def stretch_of(threads: Sequence[Threads], cores: float, stretch: float) -> float:
    """Returns how many times as long what they do takes, if each wants a core for `stretch` times what it uses.

    The mean over what they do. The stretch sought is the one that gives itself.
    """
    total = sum(each.used * each.number for each in threads)
    if not total:
        return max(1.0, 1 / cores)
    found = 0.0
    for place, each in enumerate(threads):
        # Chances that so many others want a core, too.
        chances = [1.0]
        for index, other in enumerate(threads):
            wants = min(1.0, other.used * stretch)
            for _ in range(other.number - (index == place)):
                chances = [
                    here * (1 - wants) + below * wants
                    for here, below in zip([*chances, 0.0], [0.0, *chances], strict=True)
                ]
        longer = sum(chance * max(1.0, (1 + count) / cores) for count, chance in enumerate(chances))
        found += each.used * each.number / total * longer
    return found
