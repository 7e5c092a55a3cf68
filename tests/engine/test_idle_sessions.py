"""What idle sessions cost a step of others: nothing, however many there are."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest

from model_worker.engine.engine import Engine
from model_worker.engine.types import RunRequest
from tests.support.engines import make_engine, run_all


def _calls_of_a_decoding(engine: Engine, name: str) -> Counter[str]:
    """Which functions of ours are called how often while one session decodes."""
    calls: Counter[str] = Counter()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and "model_worker" in frame.f_code.co_filename:
            calls[frame.f_code.co_qualname] += 1

    engine.submit(RunRequest(name, 0, [7, 8, 9], max_tokens=20))
    sys.setprofile(note)
    try:
        while not engine.is_idle:
            engine.step()
    finally:
        sys.setprofile(None)
    engine.close_session(name)
    return calls


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_idle_sessions_cost_a_step_nothing(count: int) -> None:
    """Counted are calls, not time: a look at all sessions would show."""
    engine, _ = make_engine(num_pages=count + 100, max_batch_tokens=4096)
    few = _calls_of_a_decoding(engine, "first")
    for begin in range(0, count, 2_000):
        end = min(count, begin + 2_000)
        run_all(engine, [RunRequest(f"idle-{number}", 0, [5]) for number in range(begin, end)])
    assert engine.capacity.num_sessions == count
    many = _calls_of_a_decoding(engine, "second")
    # Which pages are free may differ by a call when the first ones are taken.
    assert not {name: (few[name], many[name]) for name in few | many if abs(many[name] - few[name]) > 2}
