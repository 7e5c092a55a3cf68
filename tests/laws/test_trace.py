"""An answer as an OTLP backend gets it: one span per segment, in the trace that the client began."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.trace import TracerProvider

from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Threshold
from rstitch.service import semconv
from rstitch.v1 import worker_pb2, worker_pb2_grpc
from tests.support.otlp_receiver import OtlpReceiver, attributes
from tests.support.secured import session_name
from tests.support.served import Pair, start_stack

PROMPT = [7, 8, 9, 10, 11]
TAU = 0.3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


async def test_one_segment_span_per_segment_in_the_clients_trace(random_pair: Pair, receiver: OtlpReceiver) -> None:
    tracer = TracerProvider().get_tracer("a client")
    with start_stack(random_pair, env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}) as stack:
        async with AsyncClient(stack.router_address, timeout_s=100) as client:
            with tracer.start_as_current_span("question") as question:
                answer = await client.answer(tokens=PROMPT, policy=Threshold(TAU), max_new_tokens=60)
            trajectory = await client.trajectory(answer.session_id)
            # A worker that holds less than the router thinks says so, and is told the rest: as sound as any answer.
            for part in stack.parts:
                if part.name.startswith("llm worker"):
                    async with grpc.aio.insecure_channel(part.address) as channel:
                        close: Any = worker_pb2_grpc.WorkerServiceStub(channel).CloseSession
                        await close(worker_pb2.CloseSessionRequest(session_id=session_name(answer.session_id)))
            with tracer.start_as_current_span("again") as again:
                await client.answer(tokens=[7], session_id=answer.session_id, policy=LlmOnly(), max_new_tokens=4)
    # The stack is down: every service has sent what it had.
    trace_id = question.get_span_context().trace_id.to_bytes(16, "big")
    ours = [span for span in receiver.spans if span.trace_id == trace_id]
    assert trace.format_span_id(question.get_span_context().span_id) in {span.parent_span_id.hex() for span in ours}
    (root,) = [span for span in ours if span.name == "rstitch.generate"]
    usage = answer.finished.usage
    assert attributes(root)[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] == usage.num_tokens
    assert attributes(root)[semconv.GEN_AI_USAGE_INPUT_TOKENS] == len(PROMPT)

    segments = [segment for segment in trajectory.segments if segment.source != "prompt"]
    spans = sorted((s for s in ours if " writes" in s.name), key=lambda span: span.start_time_unix_nano)
    assert len(spans) == len(segments) > 3
    for index, (span, segment) in enumerate(zip(spans, segments, strict=True)):
        told = attributes(span)
        assert span.parent_span_id == root.span_id
        assert told[semconv.RSTITCH_SEGMENT_MODEL] == told[semconv.RSTITCH_SEGMENT_TO] == str(segment.source)
        assert told[semconv.RSTITCH_SEGMENT_POSITION] == segment.position
        assert told[semconv.RSTITCH_SEGMENT_NUM_TOKENS] == len(segment.tokens)
        assert told[semconv.RSTITCH_SEGMENT_NUM_CATCH_UP_TOKENS] >= 0
        assert told[semconv.RSTITCH_SEGMENT_TAU] == TAU
        assert told[semconv.RSTITCH_SEGMENT_FORWARD_US] > 0
        assert told[semconv.RSTITCH_SEGMENT_QUEUE_US] >= 0
        if index:
            assert [link.span_id for link in span.links] == [spans[index - 1].span_id]
            assert told[semconv.RSTITCH_SEGMENT_FROM] != told[semconv.RSTITCH_SEGMENT_TO]
            assert told[semconv.RSTITCH_SEGMENT_REASON] == str(segment.reason)
            assert told[semconv.RSTITCH_SEGMENT_ENTROPY] == pytest.approx(segment.switch_entropy)
            assert (told[semconv.RSTITCH_SEGMENT_ENTROPY] > TAU) == (told[semconv.RSTITCH_SEGMENT_FROM] == "slm")
    by_id = {span.span_id: span for span in ours}
    runs = [span for span in ours if span.name == "decode"]
    ahead = [span for span in ours if span.name == "run-ahead"]
    assert len(runs) + len(ahead) >= len(segments)
    assert not [span for span in receiver.spans if span.name.endswith("/GetInfo")], "polling fills the backend"
    assert all(" writes" in by_id[run.parent_span_id].name for run in runs)
    assert all(by_id[run.parent_span_id].name == "SLM runs ahead" for run in ahead)
    corrected = [
        span
        for span in receiver.spans
        if span.trace_id == again.get_span_context().trace_id.to_bytes(16, "big")
        and attributes(span).get(semconv.RSTITCH_RUN_REASON) == "held_too_short"
    ]
    assert corrected
    assert not [span.name for span in receiver.spans if span.status.code == Status.STATUS_CODE_ERROR]
