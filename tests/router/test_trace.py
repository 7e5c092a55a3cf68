"""One trace per generation, one span per segment, each linked to the one before."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from rstitch.service import semconv
from rstitch.service.telemetry import setup_telemetry
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, check_kept, take, threshold, until
from tests.support.spans import named, recording
from tests.support.toy_stack import Stack

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.mark.parametrize("run_ahead", ["on", "off"])
async def test_a_span_per_segment_below_one_root_in_the_callers_trace(stack: Stack, run_ahead: str) -> None:
    telemetry, exporter = recording()
    stub = await stack.stub(await stack.router(telemetry=telemetry, run_ahead=run_ahead))
    request = ask_for(policy=threshold(0.5, 0.4), max_new_tokens=50, session_id="traced")
    answer = await take(stub, request, metadata=[("traceparent", TRACEPARENT)])
    assert answer.error is None
    assert answer.trace_id == TRACE_ID
    trajectory = await check_kept(stub, answer)
    await until(lambda: named(exporter, "rstitch.v1.RouterService/Generate"))
    (root,) = named(exporter, "rstitch.generate")
    (call,) = named(exporter, "rstitch.v1.RouterService/Generate")
    assert root.parent is not None
    assert root.parent.span_id == call.context.span_id
    usage = answer.finished.usage
    attributes = root.attributes or {}
    assert attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] == len(answer.tokens)
    assert attributes[semconv.RSTITCH_USAGE_SWITCHES] == usage.num_switches
    assert attributes[semconv.RSTITCH_SESSION_ID] == "traced"
    assert attributes[semconv.RSTITCH_POLICY] == "threshold"

    segments = [segment for segment in trajectory.segments if segment.source != 1]
    spans = named(exporter, "rstitch.segment")
    assert len(spans) == len(segments) == usage.num_switches + 1
    before: ReadableSpan | None = None
    for span, segment in zip(spans, segments, strict=True):
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert format(span.context.trace_id, "032x") == TRACE_ID
        facts = span.attributes or {}
        model = {2: "slm", 3: "llm"}[segment.source]
        assert facts[semconv.RSTITCH_SEGMENT_TO] == facts[semconv.RSTITCH_SEGMENT_MODEL] == model
        assert facts[semconv.RSTITCH_SEGMENT_POSITION] == segment.position
        assert facts[semconv.RSTITCH_SEGMENT_NUM_TOKENS] == len(segment.tokens)
        assert semconv.RSTITCH_SEGMENT_NUM_CATCH_UP_TOKENS in facts
        assert facts[semconv.RSTITCH_SEGMENT_QUEUE_US]
        assert facts[semconv.RSTITCH_SEGMENT_FORWARD_US]
        if before is None:
            assert not span.links
        else:
            assert [link.context.span_id for link in span.links] == [before.context.span_id]
            assert facts[semconv.RSTITCH_SEGMENT_FROM] == {"slm": "llm", "llm": "slm"}[model]
            assert facts[semconv.RSTITCH_SEGMENT_ENTROPY] == segment.switch_entropy
            up = model == "llm"
            assert facts[semconv.RSTITCH_SEGMENT_REASON] == ("entropy_above" if up else "entropy_below")
            assert facts[semconv.RSTITCH_SEGMENT_TAU] == (0.5 if up else 0.4)
        before = span
    # The runs carry the segments' contexts to the workers.
    contexts = {f"00-{TRACE_ID}-{span.context.span_id:016x}-01" for span in spans}
    assert {run.traceparent for run in [*stack.slm.requests, *stack.llm.requests]} <= contexts


async def test_an_answer_that_is_gone_on_with_elsewhere_stays_in_its_trace(stack: Stack) -> None:
    stack.slm.delay_s = stack.llm.delay_s = 0.01
    first = await stack.router(telemetry=recording()[0])
    request = ask_for(policy={"llm_only": {}}, max_new_tokens=18)
    answer = await take(await stack.stub(first), request, num_tokens=2, metadata=[("traceparent", TRACEPARENT)])
    await first.sessions.drain()
    telemetry, exporter = recording()
    stub = await stack.stub(await stack.router(telemetry=telemetry))
    rest = await take(stub, router_pb2.GenerateRequest(session_id=answer.session_id, resume_from=answer.next))
    assert rest.error is None
    assert rest.trace_id == TRACE_ID
    await until(lambda: named(exporter, "rstitch.generate"))


async def test_without_telemetry_nothing_is_sent_along(stack: Stack) -> None:
    stub = await stack.stub(await stack.router(telemetry=setup_telemetry("router", "")))
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20))
    assert answer.trace_id == ""
    assert {run.traceparent for run in [*stack.slm.requests, *stack.llm.requests]} == {""}
