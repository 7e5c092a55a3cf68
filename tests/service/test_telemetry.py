"""Spans reach a real OTLP receiver, ended, with the right code, in one trace; without an endpoint there is no SDK."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest

from rstitch.service.telemetry import Telemetry, context_from_traceparent, setup_telemetry, traceparent_of
from tests.service.conftest import KINDS, SERVICE, soon, start_wire
from tests.support.otlp_receiver import OtlpReceiver, attributes

# Kinds that a client interceptor exists for.
CLIENT_KINDS = ("unary_unary", "unary_stream", "stream_stream")


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


def codes(receiver: OtlpReceiver, kind: str) -> dict[int, int]:
    """Status code by span kind (2 server, 3 client) of the one call made."""
    spans = receiver.named(f"{SERVICE}/{kind}")
    assert len({span.trace_id for span in spans}) == 1
    assert all(span.end_time_unix_nano for span in spans)
    return {span.kind: attributes(span)["rpc.grpc.status_code"] for span in spans}


async def traced_call(telemetry: Telemetry, kind: str, what: str, timeout: float | None = 10) -> None:
    """One call below a span "root"; its failure is ignored, a `what` of "cancel" is cancelled."""
    async with start_wire(telemetry) as wire, wire.channel(telemetry) as channel:
        with telemetry.tracer.start_as_current_span("root"):
            call = asyncio.create_task(wire.call(channel, kind, "wait" if what == "cancel" else what, timeout))
            if what == "cancel":
                await soon(wire.kinds.started.wait())
                call.cancel()
            await asyncio.wait({call})
            assert call.cancelled() or isinstance(call.exception(), grpc.RpcError | None)
            await soon(wire.kinds.cleaned_up.wait())
    telemetry.shutdown()


@pytest.mark.parametrize("kind", CLIENT_KINDS)
@pytest.mark.parametrize(
    ("what", "timeout", "code"),
    [("hello", 10, 0), ("refuse", 10, 3), ("break", 10, 13), ("cancel", None, 1), ("wait", 0.3, 4)],
)
async def test_client_and_server_spans_end_with_the_code(
    receiver: OtlpReceiver, kind: str, what: str, timeout: float | None, code: int
) -> None:
    await traced_call(setup_telemetry("test", receiver.endpoint), kind, what, timeout)
    assert codes(receiver, kind) == {2: code, 3: code}


@pytest.mark.parametrize(("what", "fails"), [("cancel", False), ("give up", True)])
async def test_only_a_call_that_the_other_side_ended_is_an_error(
    receiver: OtlpReceiver, what: str, fails: bool
) -> None:
    await traced_call(setup_telemetry("test", receiver.endpoint), "stream_stream", what)
    (client,) = (span for span in receiver.named(f"{SERVICE}/stream_stream") if span.kind == 3)
    assert attributes(client)["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]
    assert (client.status.code == client.status.STATUS_CODE_ERROR) is fails


async def test_the_trace_goes_from_the_client_through_the_server(receiver: OtlpReceiver) -> None:
    await traced_call(setup_telemetry("test", receiver.endpoint), "unary_unary", "hello")
    (root,) = receiver.named("root")
    client, server = sorted(receiver.named(f"{SERVICE}/unary_unary"), key=lambda span: -span.kind)
    assert (client.parent_span_id, server.parent_span_id) == (root.span_id, client.span_id)
    assert attributes(server)["rpc.service"] == SERVICE


@pytest.mark.parametrize("kind", KINDS)
async def test_no_client_span_where_nothing_is_traced(receiver: OtlpReceiver, kind: str) -> None:
    telemetry = setup_telemetry("test", receiver.endpoint)
    async with start_wire(telemetry) as wire, wire.channel(telemetry) as channel:
        await wire.call(channel, kind, "hello")
    telemetry.shutdown()
    assert [span.kind for span in receiver.spans] == [2]


async def test_health_leaves_no_span(receiver: OtlpReceiver) -> None:
    telemetry = setup_telemetry("test", receiver.endpoint)
    async with start_wire(telemetry) as wire, wire.channel(telemetry) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        with telemetry.tracer.start_as_current_span("root"):
            await check(b"")
    telemetry.shutdown()
    assert [span.name for span in receiver.spans] == ["root"]


def test_ten_thousand_spans_in_a_burst_all_arrive(receiver: OtlpReceiver) -> None:
    telemetry = setup_telemetry("test", receiver.endpoint)
    for _ in range(10_000):
        telemetry.tracer.start_span("burst").end()
    telemetry.shutdown(30)
    assert len(receiver.named("burst")) == 10_000


def test_a_traceparent_survives_the_round_trip() -> None:
    text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert traceparent_of(context_from_traceparent(text)) == text
    assert traceparent_of(context_from_traceparent("")) == traceparent_of(None) == ""
    assert traceparent_of(context_from_traceparent("nonsense")) == ""


def test_a_receiver_that_is_gone_does_not_hold_up_the_end() -> None:
    telemetry = setup_telemetry("test", "127.0.0.1:1")
    telemetry.tracer.start_span("lost").end()
    assert not telemetry.shutdown(0.5), "given up: the library itself would try for ten seconds"
    assert telemetry.shutdown(0.5), "once is enough"


@pytest.mark.parametrize("endpoint", [None, ""])
def test_off_is_off(endpoint: str | None) -> None:
    telemetry = setup_telemetry("test", endpoint)
    assert not telemetry.enabled
    assert telemetry.server_interceptor() is None
    assert telemetry.client_interceptors() == []
    assert not telemetry.tracer.start_span("nothing").is_recording()
    telemetry.shutdown()


def test_off_does_not_import_the_sdk() -> None:
    code = (
        "import sys; from rstitch.service import server, logs, telemetry; telemetry.setup_telemetry('x', None);"
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_standard_variable_is_honoured(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    telemetry = setup_telemetry("test", None)
    telemetry.tracer.start_span("by the variable").end()
    telemetry.shutdown()
    assert receiver.named("by the variable")
