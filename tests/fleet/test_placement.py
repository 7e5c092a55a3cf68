"""Where sessions are placed: few each, the same by every router, and none moved without need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fleet.placement import Candidate, few, is_overloaded, near, nearest, place

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


def _near(beginning: str, workers: Sequence[Candidate]) -> Candidate | None:
    by_id = {each.id: each for each in workers}
    return near([by_id[worker_id] for worker_id in nearest(beginning, by_id)], workers)


def test_what_begins_alike_goes_to_one_worker_until_that_has_far_more_to_do_then_to_one_other() -> None:
    first, second, third = (worker_id for worker_id in nearest("beginning", [each.id for each in _THREE]))

    def goes_to(**busy: int) -> str | None:
        order = dict(zip((first, second, third), busy.values(), strict=True))
        now = [replace(each, num_busy=order[each.id]) for each in _THREE]
        found = _near("beginning", now)
        assert found == _near("beginning", now[::-1]), "routers see them in any order"
        return found.id if found is not None else None

    assert goes_to(first=4, second=0, third=0) == first
    assert goes_to(first=5, second=0, third=0) == second
    assert goes_to(first=5, second=5, third=0) == third
    assert goes_to(first=34, second=20, third=20) == first
    assert goes_to(first=35, second=20, third=20) == second


def test_who_has_less_room_or_far_more_sessions_is_near_to_nobody() -> None:
    first, second, _ = nearest("beginning", [each.id for each in _THREE])

    def goes_to(**changes: int) -> str | None:
        found = _near("beginning", [replace(each, **changes) if each.id == first else each for each in _THREE])
        return found.id if found is not None else None

    assert goes_to(num_free_pages=25) == goes_to(num_bound=16) == first
    assert goes_to(num_free_pages=24) == goes_to(num_bound=17) == second
    assert _near("beginning", [replace(each, num_free_pages=0) for each in _THREE]) is None
    assert _near("beginning", []) is None


def test_beginnings_are_spread_and_only_those_of_one_that_is_gone_go_elsewhere() -> None:
    for num in (3, 10, 40):
        workers = [Candidate(f"slm-{index:03}", 0, 100) for index in range(num)]
        homes = [_near(f"b{number}", workers) for number in range(20 * num)]
        counts = Counter(found.id for found in homes if found is not None)
        assert len(counts) == num
        assert max(counts.values()) < 60
        for number, home in enumerate(homes):
            assert home in (_near(f"b{number}", workers[1:]), workers[0])


def test_who_is_not_near_because_all_write_there_is_not_chosen_for_its_few_sessions_either() -> None:
    """Idle sessions are bound, too: a worker of few sessions may be the one with all the work."""
    idle, busy = Candidate("a", 100, 100), Candidate("b", 10, 100, num_busy=40)
    assert _near("beginning", [idle, busy]) is None
    assert place("s", [idle, busy]) == idle
    assert place("s", [idle, replace(busy, num_busy=4)]).id == "b"  # type: ignore[union-attr]
