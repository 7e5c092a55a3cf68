"""What somebody new could get: all that no running session needs, told by whatever is scarcest."""

from __future__ import annotations

from typing import Any

import pytest

from model_worker.engine.engine import Engine
from model_worker.engine.types import Event, RunFailed, RunFinished, RunRequest
from tests.support.engines import make_engine, make_engine_of, run_one
from tests.support.pairs import VOCAB_SIZE, make_model
from tests.support.recurrent import RECURRENT
from tests.support.windowed import WINDOWED

PAGE = 16
PROMPT = list(range(30, 30 + 5 * PAGE + 3))


def begin(engine: Engine, session_id: str, tokens: list[int]) -> int:
    """A run that has written a token and goes on."""
    stop = frozenset([VOCAB_SIZE])
    run = engine.submit(RunRequest(session_id, 0, tokens, max_tokens=100, stop_tokens=stop))
    while not any(event.run_id == run for event in engine.step()):
        pass
    return run


def available(engine: Engine) -> int:
    return engine.capacity.num_available_pages


@pytest.mark.parametrize("mode", ["off", "copy", "share"])
def test_idle_sessions_leave_their_pages_and_shared_ones_count_once(mode: Any) -> None:
    engine, _ = make_engine(num_pages=64, page_size=PAGE, prefix_cache=mode)
    assert available(engine) == 64
    first = begin(engine, "a", PROMPT)
    assert available(engine) == 64 - 6
    second = begin(engine, "b", PROMPT)
    shared = 5 if mode == "share" else 0
    assert engine.capacity.num_shared_pages == shared
    assert available(engine) == 64 - 2 * 6 + shared
    engine.cancel(first)
    assert available(engine) == 64 - 6
    assert engine.capacity.num_sessions == 2
    engine.cancel(second)
    assert available(engine) == 64 > engine.capacity.num_free_pages
    engine.check_integrity()


def test_a_newcomer_gets_what_is_told() -> None:
    """Idle sessions hold all of it; whoever comes takes all that is told."""
    engine, _ = make_engine(num_pages=16, page_size=PAGE)
    for name in "abc":
        run_one(engine, RunRequest(name, 0, PROMPT[: 4 * PAGE], max_tokens=1))
    running = begin(engine, "d", PROMPT[:4])
    told = available(engine)
    assert told == 15 > engine.capacity.num_free_pages
    newcomer = engine.submit(RunRequest("e", 0, [9] * (told * PAGE - 1), max_tokens=1))
    told_of: list[Event] = []
    while not any(isinstance(event, RunFinished | RunFailed) for event in told_of):
        told_of += [event for event in engine.step() if event.run_id == newcomer]
    assert isinstance(told_of[-1], RunFinished)
    engine.cancel(running)
    assert available(engine) == 16
    engine.check_integrity()


def test_rooms_in_windows_are_told_as_a_share_of_the_pages() -> None:
    rooms = 20
    engine = make_engine_of(
        make_model(WINDOWED["gemma3"], 3), num_pages=80, page_size=PAGE, num_window_pages=rooms, max_batch_tokens=24
    )
    told = engine.capacity
    assert (told.num_window_pages, told.num_free_window_pages, told.num_available_pages) == (rooms, rooms, 80)
    run = begin(engine, "a", PROMPT)
    taken = rooms - engine.capacity.num_free_window_pages
    assert taken == 6
    assert available(engine) == 80 * (rooms - taken) // rooms < 80 - 6
    engine.cancel(run)
    assert engine.capacity.num_free_window_pages == rooms - taken
    assert available(engine) == 80
    engine.check_integrity()


def test_slots_for_states_are_told_as_a_share_of_the_pages() -> None:
    engine = make_engine_of(make_model(RECURRENT["lfm2"], 0), num_pages=100, page_size=PAGE, num_states=10)
    assert (engine.capacity.num_states, engine.capacity.num_free_states, available(engine)) == (10, 10, 100)
    run = begin(engine, "a", PROMPT[:PAGE])
    # It keeps several; all but the one that it goes on from are taken from it when somebody needs them.
    assert engine.capacity.num_free_states < 9
    assert available(engine) == 90
    engine.cancel(run)
    assert available(engine) == 100
    engine.check_integrity()


def test_runs_that_find_no_place_in_a_step_wait() -> None:
    engine, _ = make_engine(num_pages=64, page_size=PAGE, max_batch_tokens=PAGE)
    runs = [engine.submit(RunRequest(name, 0, PROMPT, max_tokens=1)) for name in "abc"]
    assert engine.capacity.num_waiting_runs == 0
    engine.step()
    assert (engine.capacity.num_runs, engine.capacity.num_waiting_runs) == (3, 2)
    for run in runs:
        engine.cancel(run)
    assert engine.capacity.num_waiting_runs == 0
