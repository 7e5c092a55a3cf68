"""Traces and metrics go over TLS to whom they are for, and to nobody else."""

from __future__ import annotations

import asyncio

import pytest

from rstitch.errors import RstitchError
from rstitch.service.metrics import setup_metrics
from rstitch.service.telemetry import setup_telemetry
from rstitch.service.tls import TlsSettings
from tests.support.certificates import Authority
from tests.support.otlp_receiver import MetricsReceiver, OtlpReceiver


def secured(authority: Authority) -> TlsSettings:
    return TlsSettings(**authority.served_as("redis"), tls_client_ca=authority.ca)


def name_files(patch: pytest.MonkeyPatch, ca: str, cert: str = "", key: str = "", signal: str = "") -> None:
    for part, path in (("CERTIFICATE", ca), ("CLIENT_CERTIFICATE", cert), ("CLIENT_KEY", key)):
        patch.setenv(f"OTEL_EXPORTER_OTLP_{signal}{part}", path)


@pytest.mark.parametrize("signal", ["", "TRACES_", "METRICS_"])
async def test_both_ends_show_who_they_are(
    ours: Authority, theirs: Authority, monkeypatch: pytest.MonkeyPatch, signal: str
) -> None:
    tls = secured(ours).server_tls()
    assert tls is not None
    right = (ours.ca, ours.file("router.pem"), ours.file("router.key"))
    if signal:  # what is said of one signal wins for it alone
        name_files(monkeypatch, theirs.ca)
        name_files(monkeypatch, *right, signal=signal)
        other = "METRICS_" if signal == "TRACES_" else "TRACES_"
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{other}TIMEOUT", "0.3")  # so long it tries again
    else:
        name_files(monkeypatch, *right)
    with OtlpReceiver(tls.credentials()) as spans, MetricsReceiver(tls.credentials()) as metrics:
        telemetry, measured = setup_telemetry("test", spans.endpoint), setup_metrics("test", metrics.endpoint)
        with telemetry.tracer.start_as_current_span("seen"):
            pass
        measured.meter.create_counter("counted").add(1)
        done = [asyncio.to_thread(telemetry.shutdown, 3.0), asyncio.to_thread(measured.shutdown, 3.0)]
        await asyncio.gather(*done)
        assert len(spans.named("seen")) == (signal != "METRICS_")
        assert metrics.names == ({"counted"} if signal != "TRACES_" else set())


@pytest.mark.parametrize("wrong", ["the collector's authority", "no certificate", "in clear"])
def test_nothing_is_told_to_a_stranger(
    ours: Authority, theirs: Authority, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    tls = secured(ours).server_tls()
    assert tls is not None
    ca = theirs.ca if wrong == "the collector's authority" else ours.ca
    shown = ("", "") if wrong == "no certificate" else (ours.file("router.pem"), ours.file("router.key"))
    name_files(monkeypatch, ca, *shown)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")  # so long it tries again
    with OtlpReceiver(tls.credentials()) as spans:
        endpoint = spans.endpoint.replace("https", "http") if wrong == "in clear" else spans.endpoint
        telemetry = setup_telemetry("test", endpoint)
        with telemetry.tracer.start_as_current_span("seen"):
            pass
        telemetry.shutdown(0.5)
        assert spans.spans == []


def test_a_file_that_does_not_load_is_named_by_its_variable(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter alone would go on without it."""
    name_files(monkeypatch, ours.file("ca.key"))
    for setup in (setup_telemetry, setup_metrics):
        with pytest.raises(RstitchError) as refused:
            setup("test", "https://localhost:1")
        assert refused.value.field == "OTEL_EXPORTER_OTLP_CERTIFICATE"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/gone")
    with pytest.raises(RstitchError) as refused:
        setup_metrics("test", "https://localhost:1")
    assert refused.value.field == "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE"
    assert "/gone" not in str(refused.value)
