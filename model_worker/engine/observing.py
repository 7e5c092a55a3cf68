"""Teacher forcing: what a run asks of a model along tokens that are given, and what it is told. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

# So many distributions of a step are asked for by all that observe: each has logits of its own, which take memory.
MAX_OBSERVED = 192
# Where nobody decodes, a step of observing may take as long as so many decode steps, and has so many tokens at least:
# one token a step would take a forward for each.
OBSERVING_STEPS, MIN_OBSERVED = 2, 16


@dataclass(frozen=True, slots=True)
class Observe:
    """Which distributions a run is to be told: of positions from `start` on (at least 1), entropies over `above`."""

    start: int
    above: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What a step of an observing run found at the next `num_positions` positions; of those below the bound nothing."""

    run_id: int
    num_positions: int
    positions: tuple[int, ...] = ()  # of those with an entropy over the bound, ascending
    tokens: tuple[int, ...] = ()  # that the model would write there, whatever was given
    entropies: tuple[float, ...] = ()
    # float16 little-endian, [len(positions), hidden_size]; what is too large is the largest there
    hidden_states: bytes = b""
