"""Laws of two workers taking turns on one device."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_worker.device_turns import DeviceTurns

Pair = tuple[DeviceTurns, DeviceTurns]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    sides = DeviceTurns(tmp_path / "device", "slm", 3), DeviceTurns(tmp_path / "device", "llm", 3)
    yield sides
    for side in sides:
        side.close()


def test_never_both_at_once(pair: Pair) -> None:
    slm, llm = pair
    assert slm.begin(True, True)
    assert not llm.begin(True, True)
    slm.end(False)
    assert llm.begin(True, True)
    assert not slm.begin(True, True)
    llm.end(False)


def test_so_many_slm_steps_for_each_llm_step(pair: Pair) -> None:
    """Both always have work; each is asked again and again."""
    written = ""
    slm, llm = pair
    slm.begin(True, True)  # both signs are up before the first step ends
    llm.begin(True, True)
    slm.end(True)
    for _ in range(40):
        for name, side in (("s", slm), ("l", llm)):
            if side.begin(True, True):
                written += name
                side.end(True)
    assert written.startswith("ssl" + 5 * "sssl")


def test_who_is_alone_never_waits(pair: Pair) -> None:
    for side in pair:
        for _ in range(10):
            assert side.begin(True, True)
            side.end(False)


def test_who_is_alone_with_the_device_lets_nobody_step_and_waits_for_a_step(pair: Pair) -> None:
    """A worker that captures and measures its steps at the start, beside one that serves already."""
    slm, llm = pair
    assert slm.begin(True, True)
    inside, begun = threading.Event(), threading.Event()
    leave = threading.Event()

    def capture() -> None:
        begun.set()
        with llm.alone():
            inside.set()
            assert leave.wait(60)

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(capture)
        assert begun.wait(60)
        assert not inside.is_set(), "the device was taken in the middle of a step"
        slm.end(False)
        assert inside.wait(60)
        assert not slm.begin(True, True)
        leave.set()
        done.result()
    assert slm.begin(True, True)
    slm.end(False)


def test_what_nobody_waits_for_goes_when_the_other_has_no_work(pair: Pair) -> None:
    slm, llm = pair
    assert llm.begin(True, True)
    llm.end(True)  # it has more to do
    assert not slm.begin(True, False)
    assert slm.begin(True, True)
    slm.end(False)
    assert llm.begin(True, True)
    llm.end(False)
    assert slm.begin(True, False)
    slm.end(False)


def test_work_that_was_cancelled_is_not_waited_for(pair: Pair) -> None:
    slm, llm = pair
    assert slm.begin(True, True)
    slm.end(True)
    assert not llm.begin(True, True)
    assert slm.begin(False, False)
    slm.end(False)
    assert llm.begin(True, True)
    llm.end(False)


def test_a_worker_that_dies_in_its_step_blocks_nobody(tmp_path: Path) -> None:
    survivor = DeviceTurns(tmp_path / "device", "slm", 1)
    child = os.fork()
    if child == 0:  # no cleanup: as if killed
        os._exit(0 if DeviceTurns(tmp_path / "device", "llm", 1).begin(True, True) else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    for _ in range(3):
        assert survivor.begin(True, True)
        survivor.end(True)
    survivor.close()
