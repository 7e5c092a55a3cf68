"""Laws of the bookkeeping, without a model: pages, sessions, batches."""

from __future__ import annotations

import itertools
import random

import pytest

from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.bookkeeping.pages import PagePool
from model_worker.engine.bookkeeping.runs import Run
from model_worker.engine.bookkeeping.scheduler import Scheduler
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.types import Limits, Returns, RunRequest

_ids = itertools.count(1)


class Bench:
    """A scheduler over a small pool, stepped without a model: scheduled rows just count as computed."""

    def __init__(self, num_pages: int, page_size: int = 4, budget: int = 16, **limits: float) -> None:
        self.pool = PagePool(num_pages, page_size)
        self.table = SessionTable(self.pool)
        self.scheduler = Scheduler(self.table, Limits(0, 0, num_pages, page_size, budget, **limits))

    def start(self, session_id: str, num_tokens: int, max_tokens: int = 100, background: bool = False) -> Run:
        session = self.table.open(session_id)
        session.tokens.extend(range(num_tokens))
        run = Run(next(_ids), RunRequest(session_id, 0, (), max_tokens=max_tokens, background=background), session)
        self.scheduler.add(run)
        return run

    def step(self):
        schedule = self.scheduler.schedule()
        for row in schedule.rows:
            row.run.session.num_computed += row.num_tokens
        self.table.check_integrity()
        return schedule


def test_long_prompt_is_chunked_and_does_not_stop_decoding() -> None:
    bench = Bench(num_pages=64)
    short, long = bench.start("short", 3), bench.start("long", 50)
    bench.step()
    short.session.tokens.append(9)  # it decodes from now on
    rows = {row.run.run_id: row for row in bench.step().rows}
    assert rows[short.run_id].num_tokens == 1
    assert rows[short.run_id].is_last
    assert 1 <= rows[long.run_id].num_tokens <= 15
    assert not rows[long.run_id].is_last


def test_background_gets_only_what_is_left() -> None:
    bench = Bench(num_pages=64, budget=16)
    background, foreground = bench.start("background", 40, max_tokens=0), bench.start("foreground", 12)
    rows = {row.run.run_id: row.num_tokens for row in bench.step().rows}
    assert rows == {foreground.run_id: 12, background.run_id: 4}


# A decode row costs 100 us beyond the 1000 of any step, a token of a longer row 20, alone or riding along.
COSTS = CostModel(decode={1: 1100, 64: 7400}, extend={2: 1140, 512: 11340}, ride={1: 20, 512: 10240})


def test_background_stretches_a_step_that_others_wait_for_by_a_bounded_share() -> None:
    bench = Bench(num_pages=512, budget=512, background_stretch=0.25)
    bench.scheduler.costs = COSTS
    background, decoding = bench.start("background", 400, max_tokens=0), bench.start("decoding", 1)
    rows = {row.run.run_id: row.num_tokens for row in bench.step().rows}
    assert rows == {decoding.run_id: 1, background.run_id: 13}  # 13 * 20 us within 1100 us / 4
    assert COSTS.step_us(1, 13) <= 1.25 * COSTS.step_us(1) < COSTS.step_us(1, 14)


def test_background_that_does_not_fit_waits_for_a_step_of_its_own_which_is_short() -> None:
    bench = Bench(num_pages=512, budget=512, background_stretch=0.0, background_us=1500)
    bench.scheduler.costs = COSTS
    background, decoding = bench.start("background", 400, max_tokens=0), bench.start("decoding", 1)
    assert [row.run for row in bench.step().rows] == [decoding]
    bench.scheduler.remove(decoding)
    (row,) = bench.step().rows
    assert row.run is background
    assert row.num_tokens == 20  # 1100 us + 20 * 20 us


def test_background_alone_never_stands_still() -> None:
    bench = Bench(num_pages=512, budget=512, background_us=0)
    bench.scheduler.costs = COSTS
    background = bench.start("background", 5, max_tokens=0)
    while background.session.num_pending:
        assert bench.step().rows


def test_a_catch_up_without_tokens_is_no_row() -> None:
    """It only drops what the session held beyond its position."""
    bench = Bench(num_pages=512)
    bench.scheduler.costs = COSTS
    bench.start("empty", 0, max_tokens=0)
    assert not bench.step().rows


def test_a_background_run_that_decodes_gets_only_what_is_left() -> None:
    bench = Bench(num_pages=64, budget=4)
    ahead = bench.start("ahead", 2, background=True)
    assert [row.run for row in bench.step().rows] == [ahead]
    ahead.session.tokens.append(9)
    prompt = bench.start("prompt", 4)
    assert [row.run for row in bench.step().rows] == [prompt]
    prompt.session.tokens.append(9)
    assert [row.run for row in bench.step().rows] == [prompt, ahead]


@pytest.mark.parametrize("asks", ["background", "foreground"])
def test_a_background_run_that_decodes_ends_where_pages_run_short(asks: str) -> None:
    """It is not refused, takes no page from a run that somebody waits for, and its session keeps its tokens."""
    bench = Bench(num_pages=3)
    ahead = bench.start("ahead", 4, background=True)
    foreground = bench.start("foreground", 8)
    bench.step()
    (ahead if asks == "background" else foreground).session.tokens.append(9)
    schedule = bench.step()
    assert schedule.yielded == [ahead]
    assert schedule.refused == []
    assert not ahead.session.running
    assert bench.table.get("ahead") is None or ahead.session.held >= 4
    assert [row.run for row in schedule.rows] == ([] if asks == "background" else [foreground])


def test_batch_never_exceeds_the_budget() -> None:
    bench = Bench(num_pages=200, budget=16)
    for index in range(30):
        bench.start(f"s{index}", 1 + index)
    for _ in range(5):
        assert sum(row.num_tokens for row in bench.step().rows) <= 16


def test_idle_sessions_are_evicted_least_recently_used_first() -> None:
    bench = Bench(num_pages=4)
    for name in ("old", "older", "new"):
        run = bench.start(name, 4)
        bench.step()
        bench.scheduler.remove(run)
    bench.table.open("old")  # used again
    bench.start("big", 8)
    bench.step()
    assert bench.table.get("older") is None
    assert bench.table.get("old") is not None
    assert bench.table.num_evictions == 1


def test_a_session_is_in_use_until_its_run_ends() -> None:
    bench = Bench(num_pages=4)
    long, short = bench.start("long", 4), bench.start("short", 4)
    bench.step()
    bench.scheduler.remove(short)
    bench.scheduler.remove(long)
    bench.start("big", 12)
    bench.step()
    assert bench.table.get("short") is None
    assert bench.table.get("long") is not None


def test_sessions_without_pages_are_not_kept_for_ever() -> None:
    bench = Bench(num_pages=4)
    for index in range(100):
        run = bench.start(f"s{index}", 3)
        bench.scheduler.remove(run)  # cancelled before it was computed
    assert len(bench.table) <= 5
    assert bench.table.get("s99") is not None


def test_oldest_run_is_never_refused_and_the_youngest_is() -> None:
    bench = Bench(num_pages=4)
    runs = [bench.start(f"s{index}", 4) for index in range(4)]
    bench.step()
    for run in runs:
        run.session.tokens.append(1)
    refused = [run for run, _ in bench.step().refused]
    while not refused:
        refused = [run for run, _ in bench.step().refused]
    assert runs[0] not in refused
    assert runs[-1] in refused


def test_refused_run_says_so_and_its_session_becomes_evictable() -> None:
    bench = Bench(num_pages=2)
    bench.start("a", 8)
    bench.step()
    late = bench.start("b", 4)
    schedule = bench.step()
    assert [run for run, _ in schedule.refused] == [late]
    assert not late.session.running


def test_background_yields_to_foreground_and_keeps_its_tokens() -> None:
    bench = Bench(num_pages=3)
    background = bench.start("background", 8, max_tokens=0)
    bench.step()
    foreground = bench.start("foreground", 12)
    background.session.tokens.extend([1, 2])
    schedule = bench.step()
    assert [row.run for row in schedule.rows] == [foreground]
    assert schedule.yielded == [background]
    assert background.session.held == 10
    assert background.session.num_computed == 0


def test_pool_refuses_to_hold_a_page_twice() -> None:
    pool = PagePool(4, 4)
    pages = pool.allocate(2)
    pool.check_integrity(pages)
    with pytest.raises(AssertionError, match="leaked"):
        pool.check_integrity(pages[:1])
    with pytest.raises(AssertionError, match="leaked"):
        pool.check_integrity(pages + pages[:1])


@pytest.mark.parametrize("seed", range(10))
def test_no_page_is_leaked_by_any_mix(seed: int) -> None:
    """Runs that begin, grow, are rolled back, cancelled, refused, evicted and closed, at random.

    The books stay right and the worker never stands still.
    """
    rng = random.Random(seed)
    bench = Bench(num_pages=8, budget=12)
    live: list[Run] = []
    for _ in range(300):
        action = rng.random()
        if action < 0.4 and len(live) < 6:
            session_id = f"s{rng.randrange(10)}"
            session = bench.table.get(session_id)
            if session is None or (not session.running and session.held < 20):
                if session is not None:
                    bench.table.truncate(session, rng.randrange(session.held + 1))
                request = RunRequest(
                    "",
                    0,
                    (),
                    max_tokens=rng.choice([0, 5]),
                    returns=rng.choice([None, Returns()]),
                    background=rng.random() < 0.3,
                )
                session = bench.table.open(session_id)
                session.tokens.extend([0] * rng.randrange(1, 12))
                run = Run(next(_ids), request, session)
                if run.request.wants_token and session.num_pending == 0:
                    bench.table.uncompute(session, session.held - 1)
                bench.scheduler.add(run)
                live.append(run)
        elif action < 0.5 and live:
            run = live.pop(rng.randrange(len(live)))
            bench.scheduler.remove(run)
            if rng.random() < 0.5:
                bench.table.close(run.session)
        foreground = [run for run in live if not run.is_background]
        schedule = bench.step()
        ended = [run for run, _ in schedule.refused] + schedule.yielded
        live = [run for run in live if run not in ended]
        assert not foreground or schedule.rows
        for row in schedule.rows:
            if row.is_last and row.run in live:
                if row.run.session.held < 20 and row.run.request.wants_token:
                    row.run.session.tokens.append(0)
                else:
                    bench.scheduler.remove(row.run)
                    live.remove(row.run)


def test_sessions_lie_in_one_piece_and_far_apart_while_there_is_room() -> None:
    bench = Bench(num_pages=256, budget=1000)
    sessions = [bench.start(f"s{index}", 8).session for index in range(8)]
    for _ in range(12):  # they grow in turn
        bench.step()
        for session in sessions:
            session.tokens.extend(range(4))
    assert all(session.contiguous for session in sessions)
    starts = sorted(session.pages[0] for session in sessions)
    assert {later - earlier for earlier, later in itertools.pairwise(starts)} == {32}


def test_a_full_pool_gives_scattered_pages_rather_than_none() -> None:
    pool = PagePool(64, 4)
    held = [pool.allocate(1) for _ in range(64)]
    assert pool.num_free == 0
    for pages in held[::2]:
        pool.release(pages)
    assert len(pool.allocate(32, after=held[1][0])) == 32
    pool.check_integrity(list(range(64)))
