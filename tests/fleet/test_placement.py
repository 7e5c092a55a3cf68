"""Where sessions are placed: few each, the same by every router, and none moved without need."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fleet.placement import Candidate, few, is_overloaded, near, place

_THREE = [Candidate(f"slm-{index}", 0, 100) for index in range(3)]


def test_fewest_bound_go_first_then_most_free_pages() -> None:
    busy, full, free = Candidate("a", 2, 100), Candidate("b", 1, 5), Candidate("c", 1, 6)
    assert place("s", [busy, full, free]) is free
    assert place("s", [busy, full]) is full
    assert place("s", []) is None


def test_ties_are_broken_alike_in_any_order_and_spread() -> None:
    chosen = [place(f"session-{number}", _THREE) for number in range(300)]
    assert chosen == [place(f"session-{number}", reversed(_THREE)) for number in range(300)]
    counts = [chosen.count(candidate) for candidate in _THREE]
    assert min(counts) > 60


def test_of_a_tie_only_the_sessions_of_one_that_is_gone_go_elsewhere() -> None:
    for number in range(100):
        before, after = place(f"s{number}", _THREE), place(f"s{number}", _THREE[:2])
        assert after == before or before == _THREE[2]


def test_sessions_placed_one_after_another_are_spread_evenly() -> None:
    workers = {candidate.id: candidate for candidate in _THREE}
    for number in range(100):
        chosen = place(f"s{number}", workers.values())
        assert chosen is not None
        workers[chosen.id] = replace(chosen, num_bound=chosen.num_bound + 1)
    counts = [candidate.num_bound for candidate in workers.values()]
    assert max(counts) - min(counts) <= 1


def test_of_many_workers_a_session_chooses_among_a_few_of_its_own() -> None:
    many = [Candidate(f"slm-{index:03}", index, 100) for index in range(100)]
    assert few("s", many[:6]) == many[:6]
    chosen = {session: few(session, many) for session in (f"s{number}" for number in range(300))}
    for session, its in chosen.items():
        assert 1 < len(set(its)) <= 6
        assert few(session, its) == its, "who asked before need not ask again"
        assert place(session, many) == place(session, its) == min(its, key=lambda candidate: candidate.num_bound)
    counts = Counter(candidate.id for its in chosen.values() for candidate in its)
    assert len(counts) == 100
    assert max(counts.values()) < 45, "each is among those of 18 sessions on average"


def test_routers_that_do_not_know_of_each_other_do_not_choose_the_same_workers() -> None:
    workers = [Candidate(f"slm-{index:03}", 10 * (index > 4), 100) for index in range(100)]
    placed = Counter[str]()
    for router in range(12):
        seen = {worker.id: worker for worker in workers}  # all of them see five that are empty
        for number in range(50):
            chosen = place(f"router-{router}-{number}", seen.values())
            assert chosen is not None
            seen[chosen.id] = replace(chosen, num_bound=chosen.num_bound + 1)
            placed[chosen.id] += 1
    # Who chooses among all that it sees puts its 50 on these five: 120 on each of them.
    assert max(placed.values()) < 60


def test_a_conversation_leaves_only_a_worker_that_has_far_more() -> None:
    least = Candidate("b", 3, 100)
    assert not is_overloaded(Candidate("a", 10, 0), [least])
    assert is_overloaded(Candidate("a", 11, 0), [least])
    assert not is_overloaded(least, [least])
    assert not is_overloaded(Candidate("a", 4, 0), [Candidate("new", 0, 100)])


def test_what_begins_alike_goes_to_one_worker_until_that_has_far_more_to_do() -> None:
    first = near("beginning", _THREE)
    assert first is not None
    assert near("beginning", reversed(_THREE)) == first, "routers see them in any order"

    def is_taken(own: int, others: int) -> bool:
        now = [replace(each, num_busy=own if each == first else others) for each in _THREE]
        found = near("beginning", now)
        return found is not None and found.id == first.id

    assert [is_taken(own, 0) for own in (4, 5)] == [True, False]
    assert [is_taken(own, 20) for own in (0, 34, 35)] == [True, True, False]


def test_a_worker_without_room_is_near_to_nobody() -> None:
    first = near("beginning", _THREE)
    assert first is not None
    assert near("beginning", [replace(each, num_free_pages=0) if each == first else each for each in _THREE]) is None
    assert near("beginning", []) is None


def test_beginnings_are_spread_and_only_those_of_one_that_is_gone_go_elsewhere() -> None:
    counts = Counter(found.id for number in range(300) if (found := near(f"b{number}", _THREE)) is not None)
    assert min(counts[candidate.id] for candidate in _THREE) > 60
    for number in range(100):
        before, after = near(f"b{number}", _THREE), near(f"b{number}", _THREE[:2])
        assert after == before or before == _THREE[2]
