"""The slots of states, without a model: who has which, what is kept, and what goes when there are too few."""

from __future__ import annotations

import itertools
import random

import pytest

from model_worker.engine.bookkeeping.pages import PagePool
from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.states import KEPT_EVERY, LEAST_STATES, MAX_KEPT, StateTable
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.forward.state_plan import plan
from model_worker.engine.types import RunRequest

PAGES, PAGE_SIZE = 100, 64


class Bench:
    """Sessions over a pool of states, stepped without a model: reserved rows just count as computed."""

    def __init__(self, num_slots: int) -> None:
        self.table = SessionTable(PagePool(PAGES, PAGE_SIZE), states=StateTable(num_slots))

    def open(self, name: str, num_tokens: int) -> Session:
        session = self.table.open(name)
        session.tokens.extend(range(session.held, num_tokens))
        return session

    def compute(self, session: Session, until: int, draft: int = 0, sent: int | None = None) -> bool:
        """A row up to a position, the last tokens of which may be a draft."""
        end = until - draft if sent is None else sent
        run = Run(1, RunRequest(session.session_id, 0, range(end), max_tokens=9), session, draft=range(draft))
        num_tokens = until - session.num_computed
        if not self.table.reserve(session, until, run.cuts(num_tokens), end):
            return False
        session.num_computed = until
        self.table.check_integrity()
        return True


def positions(session: Session) -> list[int]:
    return [state.position for state in session.states]


def test_a_row_stops_where_one_comes_back_to() -> None:
    bench = Bench(16)
    session = bench.open("s", 20)
    assert bench.compute(session, 12, sent=20)  # a chunk: nobody asks for its last token
    assert positions(session) == [12]
    assert bench.compute(session, 20)  # the last of what was sent may be asked for again
    assert positions(session) == [12, 19, 20]
    session.tokens.extend([1, 2, 3, 4])
    assert bench.compute(session, 24, draft=3, sent=21)
    assert positions(session) == [20, 21, 23, 24]
    for accepted, restored in ((23, 23), (22, 21), (21, 21), (20, 20), (15, 0)):
        assert bench.table.restorable(session, accepted) == restored
    bench.table.truncate(session, 22)
    assert (session.num_computed, positions(session)) == (21, [20, 21])


def test_a_step_leaves_what_it_began_with_until_the_next() -> None:
    bench = Bench(LEAST_STATES)
    session = bench.open("s", 9)
    for position in range(1, 9):
        assert bench.compute(session, position, sent=100)
    assert positions(session) == [7, 8]
    bench.table.uncompute(session, 7)
    assert (session.num_computed, positions(session)) == (7, [7])


def test_a_long_answer_can_be_taken_back_by_computing_no_more_than_is_taken_back() -> None:
    bench = Bench(16)
    session = bench.open("s", 40)
    assert bench.compute(session, 40)
    for position in range(41, 12 * KEPT_EVERY):
        session.tokens.append(5)
        assert bench.compute(session, position, sent=40)
        assert len(session.states) <= MAX_KEPT + 2
    end = session.num_computed
    for back in range(1, end - 40, 7):
        assert end - back - bench.table.restorable(session, end - back) <= back + 2 * KEPT_EVERY


def test_where_a_run_began_is_kept() -> None:
    bench = Bench(16)
    session = bench.open("s", 30)
    assert bench.compute(session, 30)
    bench.table.keep_state(session)
    for position in range(31, 60):
        session.tokens.append(5)
        assert bench.compute(session, position, sent=30)
    assert positions(session) == [30, 58, 59]


def test_states_that_may_not_be_needed_go_before_sessions_do() -> None:
    bench = Bench(8)
    sessions = [bench.open(name, 10) for name in "abc"]
    for session in sessions:
        assert bench.compute(session, 10)  # two each
    last = bench.open("d", 10)
    assert bench.compute(last, 10)
    assert [positions(session) for session in sessions] == [[9, 10]] * 3
    session = bench.open("e", 10)
    assert bench.compute(session, 10)
    assert [positions(session) for session in sessions] == [[10], [10], [9, 10]]
    assert bench.table.num_evictions == 0
    sessions[0].running = True
    for name in "fgh":
        assert bench.compute(bench.open(name, 10), 10)
    assert bench.table.num_evictions > 0
    assert bench.table.get("a") is sessions[0], "it was running"
    for each in bench.table:
        each.running = True
    assert not bench.compute(bench.open("i", 10), 10) or len(bench.table) < 8
    bench.table.check_integrity()


def test_rows_that_stop_at_their_last_token_do_so_together() -> None:
    bench = Bench(32)
    rows = []
    for name, computed, until, draft in (("s", 9, 10, 0), ("t", 4, 5, 0), ("u", 6, 9, 2), ("v", 0, 30, 0)):
        session = bench.open(name, until)
        assert not computed or bench.compute(session, computed, sent=100)
        run = Run(1, RunRequest(name, 0, range(until - draft), max_tokens=9), session, draft=range(draft))
        assert bench.table.reserve(session, until, run.cuts(until - computed), until - draft)
        rows.append(Row(run, computed, until - computed, is_last=True))
    placed = list(zip((0, 1, 2, 5), rows, strict=True))
    calls = plan(placed, scratch=99)
    assert [(call.is_fresh, call.tokens) for call in calls] == [
        (False, [2]),
        (False, [3]),
        (True, list(range(5, 34))),
        (False, [0, 1, 4, 34]),
    ]
    slots = {
        (row.run.session.session_id, state.position): state.slot for row in rows for state in row.run.session.states
    }
    assert [(each.source, each.target) for each in calls[-1].stretches] == [
        (slots["s", 9], slots["s", 10]),
        (slots["t", 4], slots["t", 5]),
        (slots["u", 8], slots["u", 9]),
        (slots["v", 29], slots["v", 30]),
    ]


def test_what_cannot_go_on_with_several_tokens_does_so_with_one() -> None:
    bench = Bench(8)
    session = bench.open("s", 40)
    assert bench.compute(session, 20, sent=100)
    run = Run(1, RunRequest("s", 0, range(40), max_tokens=9), session)
    assert bench.table.reserve(session, 40, run.cuts(20), 40)
    row = Row(run, 20, 20, is_last=True)
    assert [call.num_tokens for call in plan([(0, row)], scratch=9)] == [19, 1]
    calls = plan([(0, row)], scratch=9, chunks=False)
    assert [call.tokens for call in calls] == [[place] for place in range(20)]
    chain = [(call.stretches[0].source, call.stretches[0].target) for call in calls]
    assert all(target == source for (_, target), (source, _) in itertools.pairwise(chain))
    assert [state.slot for state in session.states] == [chain[0][0], chain[-2][1], chain[-1][1]]


def test_a_row_of_a_session_without_slots_leaves_its_states_where_nobody_looks() -> None:
    session = Session("trial")
    session.tokens.extend(range(16))
    row = Row(Run(1, RunRequest("trial", 0, range(16), max_tokens=1), session), 0, 16, is_last=True)
    (call,) = plan([(0, row)], scratch=9)
    assert (call.num_tokens, call.is_fresh, call.stretches[0].target) == (16, True, 9)


def test_a_fork_has_the_states_of_its_source() -> None:
    bench = Bench(LEAST_STATES)
    source = bench.open("s", 20)
    assert bench.compute(source, 20)
    for position, computed in ((20, 20), (19, 19), (18, 0)):
        made = bench.table.fork(source, "fork", position)
        assert (made.held, made.num_computed) == (position, computed)
        bench.table.check_integrity()
    made = bench.table.fork(source, "fork", 20)
    bench.table.close(source)
    bench.table.check_integrity()
    assert bench.table.restorable(made, 19) == 19


@pytest.mark.parametrize("num_slots", [LEAST_STATES, 9, 40])
def test_no_slot_is_ever_leaked(num_slots: int) -> None:
    rng = random.Random(num_slots)
    bench = Bench(num_slots)
    for _ in range(3000):
        session = bench.open(f"s{rng.randrange(6)}", 0)
        session.running = rng.random() < 0.3
        match rng.randrange(6):
            case 0:
                bench.table.truncate(session, rng.randint(0, session.held))
            case 1:
                bench.table.fork(session, f"f{rng.randrange(3)}", rng.randint(0, session.held))
            case 2 if not session.running:
                bench.table.close(session)
            case 3:
                bench.table.spoil(session, rng.randint(0, session.num_computed))
                bench.table.keep_state(session)
            case _:
                bench.open(session.session_id, session.held + rng.choice([1, 1, 5, 200]))
                until = rng.randint(session.num_computed + 1, session.held)
                bench.compute(session, until, draft=rng.randint(0, min(4, until - session.num_computed - 1)))
        bench.table.check_integrity()
        bench.table._pool.cleaned()


def test_who_waits_for_pages_has_no_states_meanwhile() -> None:
    bench = Bench(12)
    all_of_them = bench.open("s", PAGES * PAGE_SIZE)
    assert bench.compute(all_of_them, PAGES * PAGE_SIZE)
    all_of_them.running = True
    waiting = bench.open("t", 10)
    assert not bench.compute(waiting, 10)
    assert positions(waiting) == []
