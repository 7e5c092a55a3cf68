"""A service's JSON log, as people read it."""

from __future__ import annotations

from rstitch.cli.log_lines import last_lines, readable

WAITING = (
    '{"url": "redis://x", "event": "waiting", "level": "warning", "timestamp": "2026-01-01T00:00:0%d", "service": "r"}'
)


def test_json_becomes_a_sentence() -> None:
    assert readable(WAITING % 1) == "warning: waiting: url=redis://x"
    assert readable('{"event": "failed", "exception": "Traceback\\n  E"}') == "failed\nTraceback\n  E"


def test_other_lines_stay_as_they_are() -> None:
    for line in ("plain text", "[1, 2]", '{"no": "event"}', ""):
        assert readable(line) == line


def test_what_is_repeated_is_said_once_and_the_last_lines_win() -> None:
    assert last_lines(["old", *(WAITING % i for i in range(5)), "new"], 2) == [readable(WAITING % 1), "new"]
