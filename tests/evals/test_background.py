"""The measurement of what background catch-up costs, on a toy engine."""

from __future__ import annotations

import itertools

from evals.bench.background import PROMPT, decode
from tests.support.engines import make_engine


def test_a_round_ends_with_the_catch_up_and_leaves_nothing_behind() -> None:
    engine, _ = make_engine()
    names = itertools.count()
    alone = decode(engine, names, 0)
    before = engine.counters.num_computed_tokens
    beside = decode(engine, names, 40)
    assert engine.counters.num_computed_tokens - before == PROMPT + len(beside.steps_us) + 40
    assert alone.num_catch_up_steps == 0
    assert 1 <= beside.num_catch_up_steps == len(beside.steps_us) < len(alone.steps_us)
    assert engine.capacity.num_sessions == 0
    engine.check_integrity()
