"""The process: it says that it is ready, drains on a signal, and ends well."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rstitch.local.processes import ChildProcess
from tests.support.fake_router import FakeRouter
from tests.support.gateways import chat, process, until


def events(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / "gateway.log").read_text().splitlines()]


@contextmanager
def asking(router: FakeRouter, client: httpx2.Client) -> Iterator[tuple[threading.Event, Iterator[str]]]:
    """The lines of a streamed answer that stands still until the event is set; the first of them has come."""
    goes_on, num = threading.Event(), 0

    def hold(number: int) -> None:
        nonlocal num
        num += 1
        if num == 6:
            goes_on.wait(60)

    router.before_event = hold
    try:
        with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            yield goes_on, lines
    finally:
        goes_on.set()


def ended(made: ChildProcess) -> int | None:
    until(lambda: made.exit_code is not None)
    return made.exit_code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_answers_in_flight_end_and_then_the_process_well(router: FakeRouter, tmp_path: Path, number: Any) -> None:
    with process(router.address, tmp_path) as (made, client), asking(router, client) as (goes_on, lines):
        assert made.pid is not None
        os.kill(made.pid, number)
        until(lambda: "draining" in events(tmp_path))
        until(lambda: refuses(client))
        goes_on.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"
        assert ended(made) == 0
    said = ("ready", "draining", "stopped")
    assert [event for event in events(tmp_path) if event in said] == [*said]


def refuses(client: httpx2.Client) -> bool:
    try:
        httpx2.get(f"{client.base_url}/health")
    except httpx2.ConnectError:
        return True
    except httpx2.RemoteProtocolError:  # it came just before nobody listened any more, and was let go
        return False
    return False


@pytest.mark.parametrize("how", ["its grace is over", "a second signal"])
def test_an_answer_that_does_not_end_is_cut_off(router: FakeRouter, tmp_path: Path, how: str) -> None:
    grace = "0" if how == "its grace is over" else "60"
    flags = ("--drain-grace-s", grace)
    with process(router.address, tmp_path, *flags) as (made, client), asking(router, client) as (_, lines):
        made.terminate()
        until(lambda: "draining" in events(tmp_path))
        if how == "a second signal":
            made.terminate()
        with pytest.raises(httpx2.RemoteProtocolError):
            list(lines)
        assert ended(made) == 0
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()
