"""Metrics reach a real OTLP receiver; without an endpoint there is no SDK."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rstitch.service.metrics import setup_metrics
from tests.support.otlp_receiver import MetricsReceiver


def test_sums_gauges_and_histograms_arrive_at_the_end() -> None:
    with MetricsReceiver() as receiver:
        metrics = setup_metrics("test", receiver.endpoint)
        assert metrics.enabled
        metrics.meter.create_counter("counted").add(2, {"a": "b"})
        metrics.meter.create_histogram("timed", "s", explicit_bucket_boundaries_advisory=[1.0]).record(0.5)
        metrics.sum_of("summed", "1", "What it is.", lambda: [(7, {})])
        metrics.gauge_of("held", "1", "What it is.", lambda: [(1, {"of": "x"}), (3, {"of": "y"})])
        metrics.shutdown()
        assert receiver.points("counted") == [({"a": "b"}, 2)]
        assert receiver.points("timed") == [({}, (1, 0.5))]
        assert receiver.points("summed") == [({}, 7)]
        assert receiver.points("held") == [({"of": "x"}, 1), ({"of": "y"}, 3)]


def test_a_receiver_that_is_gone_does_not_hold_up_the_end() -> None:
    metrics = setup_metrics("test", "127.0.0.1:1")
    metrics.meter.create_counter("lost").add(1)
    assert not metrics.shutdown(0.5), "given up: the library itself would try for ten seconds"
    assert metrics.shutdown(0.5), "once is enough"


@pytest.mark.parametrize("endpoint", [None, ""])
def test_off_is_off(endpoint: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")  # of traces: Jaeger takes no metrics
    metrics = setup_metrics("test", endpoint)
    assert not metrics.enabled
    metrics.meter.create_counter("nothing").add(1)
    metrics.sum_of("nothing_either", "1", "", lambda: pytest.fail("nobody asks"))
    metrics.shutdown()


def test_the_standard_variable_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    with MetricsReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", receiver.endpoint)
        metrics = setup_metrics("test", "")
        metrics.meter.create_counter("by_the_variable").add(1)
        metrics.shutdown()
        assert receiver.total("by_the_variable") == 1


def test_off_does_not_import_the_sdk() -> None:
    code = (
        "import sys; from rstitch.service import metrics; metrics.setup_metrics('x', None);"
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
