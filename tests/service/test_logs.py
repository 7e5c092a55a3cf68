"""A log line carries service, session and trace, whoever logs it."""

from __future__ import annotations

import json
import logging

import pytest
import structlog
from opentelemetry import trace

from rstitch.service.logs import setup_logging
from rstitch.service.telemetry import context_from_traceparent


def test_lines_are_json_with_service_session_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("router", json=True)
    context = context_from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with (
        trace.use_span(trace.get_current_span(context)),
        structlog.contextvars.bound_contextvars(session_id="s1"),
    ):
        structlog.get_logger("x").info("ready", address="127.0.0.1:1")
        logging.getLogger("other").warning("from the %s library", "standard")
    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    for line in (ours, theirs):
        assert (line["service"], line["session_id"]) == ("router", "s1")
        assert (line["trace_id"], line["span_id"]) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (ours["event"], ours["address"]) == ("ready", "127.0.0.1:1")
    assert (theirs["event"], theirs["level"]) == ("from the standard library", "warning")


def test_the_level_holds_and_a_wrong_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("router", level="warning", json=True)
    structlog.get_logger("x").info("quiet")
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="loud"):
        setup_logging("router", level="loud")
