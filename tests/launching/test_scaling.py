"""When a role gets a worker more or less: a function, tried on what workers could announce."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fleet.announcement import Announcement
from launching.scaling import Bounds, Change, Memory, Patience, parse_bounds, step
from rstitch.errors import InvalidArgument

_IDLE = Announcement("slm-0", "slm", "h:1", "i", "w", "t", "m", "0", 100, 100, 0, 0, 0, False)
_BOUNDS = Bounds(1, 3)
_PATIENCE = Patience(num_short=3, num_idle=4)


def _workers(*loads: dict[str, Any]) -> list[Announcement]:
    return [replace(_IDLE, id=f"slm-{number}", **load) for number, load in enumerate(loads)]


_BUSY: dict[str, Any] = {"num_running": 2, "num_free_pages": 60, "num_sessions": 2}
_WAITED_FOR: dict[str, Any] = _BUSY | {"num_waiting": 1}


def _changes(looks: Sequence[list[Announcement]], bounds: Bounds = _BOUNDS) -> list[Change]:
    memory, found = Memory(), []
    for there in looks:
        memory, change = step(memory, there, len(there), bounds, _PATIENCE)
        found.append(change)
    return found


def test_one_more_once_somebody_has_waited_for_some_looks_in_a_row() -> None:
    waited_for, busy = _workers(_WAITED_FOR), _workers(_BUSY)
    nothing = Change()
    assert _changes([waited_for] * 3) == [nothing, nothing, Change(add=True)]
    assert _changes([waited_for, waited_for, busy, waited_for, waited_for]) == [nothing] * 5


def test_one_more_where_hardly_a_page_is_free() -> None:
    assert _changes([_workers(_BUSY | {"num_free_pages": 9})] * 3)[-1] == Change(add=True)
    assert _changes([_workers(_BUSY | {"num_free_pages": 10})] * 9)[-1] == Change()
    # Of all pages together: one that is full is not a full fleet.
    assert _changes([_workers(_BUSY | {"num_free_pages": 0}, _BUSY)] * 9)[-1] == Change()


def test_never_more_than_the_bounds_and_never_less() -> None:
    assert _changes([_workers(*[_WAITED_FOR] * 3)] * 9) == [Change()] * 9
    assert _changes([_workers({})] * 9) == [Change()] * 9
    assert _changes([_workers(*[_BUSY] * 4)])[0].remove == "slm-3"
    assert step(Memory(), [], 0, _BOUNDS, _PATIENCE)[1] == Change(add=True)


def test_one_that_idles_for_some_looks_in_a_row_goes() -> None:
    looks = [_workers({}, _BUSY)] * 4
    assert _changes(looks) == [Change()] * 3 + [Change(remove="slm-0")]
    interrupted = [_workers({}, _BUSY)] * 3 + [_workers(_BUSY, _BUSY)] + [_workers({}, _BUSY)] * 3
    assert _changes(interrupted) == [Change()] * 7


def test_of_some_that_idle_goes_who_holds_least_and_came_last() -> None:
    assert _changes([_workers({"num_sessions": 5}, {"num_sessions": 1}, {"num_sessions": 1})] * 4)[-1].remove == "slm-2"
    ten = [replace(_IDLE, id=f"slm-{number}") for number in (9, 10)]
    assert _changes([ten] * 4)[-1].remove == "slm-10"


def test_none_goes_while_somebody_waits() -> None:
    assert _changes([_workers({}, _WAITED_FOR)] * 9, Bounds(1, 2)) == [Change()] * 9


def test_nothing_changes_while_one_is_starting() -> None:
    memory = Memory()
    for _ in range(9):
        memory, change = step(memory, _workers(_WAITED_FOR), 2, _BOUNDS, _PATIENCE)
        assert change == Change()
    # What was short before is looked at anew with it.
    there = _workers(_WAITED_FOR, _BUSY)
    memory, change = step(memory, there, 2, _BOUNDS, _PATIENCE)
    assert change == Change()


def test_a_fleet_under_any_load_stays_within_its_bounds_and_follows_it() -> None:
    draw = random.Random(5)
    memory, number, most = Memory(), 1, 0
    for look in range(2000):
        load = _WAITED_FOR if look % 400 < 200 and draw.random() < 0.95 else {}
        there = _workers(*[load] * number)
        memory, change = step(memory, there, number, _BOUNDS, _PATIENCE)
        assert not (change.add and change.remove)
        number += change.add - bool(change.remove)
        assert _BOUNDS.low <= number <= _BOUNDS.high
        most = max(most, number)
        if look % 400 == 399:
            assert number == _BOUNDS.low
            assert most == _BOUNDS.high


def test_bounds_are_read_as_they_are_written() -> None:
    assert parse_bounds("slm=1..4,llm=2..2", "--autoscale") == {"slm": Bounds(1, 4), "llm": Bounds(2, 2)}
    assert parse_bounds("", "--autoscale") == {}


@pytest.mark.parametrize(
    "text", ["slm", "slm=1", "slm=0..2", "slm=3..2", "router=1..2", "slm=1..2,slm=1..3", "slm=a..b"]
)
def test_bounds_that_are_none_are_refused_by_their_flag(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--autoscale"):
        parse_bounds(text, "--autoscale")
