"""One trace per generation, one span per segment, each linked to the one before."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from router_svc.observers.span_names import exact_segment_name, segment_name
from router_svc.trajectory.types import Model, SwitchReason
from rstitch.service import semconv
from rstitch.service.telemetry import setup_telemetry
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, check_kept, take, threshold, until
from tests.support.spans import named, recording, segments_of
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
    assert trajectory.trace_id == TRACE_ID
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
    spans = segments_of(exporter)
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
    # The runs carry the segments' contexts to the workers, those that run ahead their own.
    spans += named(exporter, "SLM runs ahead")
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


def why(span: ReadableSpan) -> str:
    return str((span.attributes or {}).get(semconv.RSTITCH_SEGMENT_WHY, ""))


@pytest.mark.parametrize("names", ["bounded", "exact"])
async def test_a_span_says_by_its_name_what_happens_and_why(stack: Stack, names: str) -> None:
    telemetry, exporter = recording()
    stub = await stack.stub(await stack.router(telemetry=telemetry, trace_names=names, run_ahead="on"))
    answer = await take(stub, ask_for(policy=threshold(0.5, 0.4), max_new_tokens=50))
    trajectory = await check_kept(stub, answer)
    await until(lambda: named(exporter, "rstitch.generate"))
    segments = [segment for segment in trajectory.segments if segment.source != 1]
    spans = segments_of(exporter)
    assert len(segments) > 3
    for span, segment in zip(spans, segments, strict=True):
        value, size = segment.switch_entropy, len(segment.tokens)
        to_llm = segment.source == 3
        exact = f"entropy {value:.3g} {'> 0.5' if to_llm else '≤ 0.4'}" if segment.reason else ""
        assert why(span) == exact
        if names == "exact":
            told = f"{'LLM' if to_llm else 'SLM'} writes {size}"
            assert span.name == (f"{told}: {exact}" if exact else told)
        elif segment.reason:
            assert span.name == ("LLM writes: entropy ~0.5 > tau" if to_llm else "SLM writes: entropy ≤ tau")
        else:
            assert span.name == "SLM writes"
    ahead = named(exporter, "SLM runs ahead")
    for span in ahead:
        kept = (span.attributes or {})[semconv.RSTITCH_SEGMENT_NUM_RUN_AHEAD_TOKENS]
        assert span.name == (f"SLM runs ahead: {kept} kept" if names == "exact" else "SLM runs ahead")
    failed = [span for span in exporter.get_finished_spans() if span.status.status_code is not StatusCode.UNSET]
    assert [(span.name, span.status.description, dict(span.attributes or {})) for span in failed] == []


@pytest.mark.parametrize("size", [1, 3])
async def test_a_long_answer_is_folded_into_groups(stack: Stack, size: int) -> None:
    telemetry, exporter = recording()
    stub = await stack.stub(await stack.router(telemetry=telemetry, trace_group=size))
    answer = await take(stub, ask_for(policy=threshold(0.5, 0.4), max_new_tokens=50))
    assert answer.error is None
    (root,) = await until(lambda: named(exporter, "rstitch.generate"))
    spans, groups = segments_of(exporter), named(exporter, "segments")
    assert len(spans) > 2 * size
    firsts = [(group.attributes or {})[semconv.RSTITCH_GROUP_FIRST] for group in groups]
    assert firsts == list(range(size + 1, len(spans) + 1, size))
    parents = [root.context.span_id] * size + [group.context.span_id for group in groups for _ in range(size)]
    for span, parent in zip(spans, parents, strict=False):
        assert span.parent is not None
        assert span.parent.span_id == parent
    for group in groups:
        assert group.parent is not None
        assert group.parent.span_id == root.context.span_id
        within = [span for span in spans if span.parent is not None and span.parent.span_id == group.context.span_id]
        assert (group.start_time or 0) <= (within[0].start_time or 0)
        assert (group.end_time or 0) >= (within[-1].end_time or 0)


def test_there_are_few_bounded_names() -> None:
    values = [number / 1000 for number in range(1001)] + [1e-9, 3.0, 15.0]
    names = {segment_name(model, reason, value) for model in Model for reason in SwitchReason for value in values}
    assert len(names) < 70
    assert len({segment_name(Model.LLM, SwitchReason.ENTROPY_ABOVE, value) for value in values}) <= 12
    assert segment_name(Model.LLM, SwitchReason.ENTROPY_ABOVE, 0.314) == "LLM writes: entropy ~0.2 > tau"
    assert segment_name(Model.LLM, SwitchReason.HEAD, 0.314) == "LLM writes: the head said so"
    exact = exact_segment_name(Model.LLM, SwitchReason.ENTROPY_ABOVE, 0.314, 0.02, 12)
    assert exact == "LLM writes 12: entropy 0.314 > 0.02"
    assert exact_segment_name(Model.SLM, SwitchReason.NONE, 0.0, 0.02, 3) == "SLM writes 3"


async def test_without_telemetry_nothing_is_sent_along(stack: Stack) -> None:
    stub = await stack.stub(await stack.router(telemetry=setup_telemetry("router", "")))
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20))
    assert answer.trace_id == ""
    assert {run.traceparent for run in [*stack.slm.requests, *stack.llm.requests]} == {""}


async def test_what_is_kept_says_the_last_answers_trace(stack: Stack) -> None:
    """Also whoever reads a finished answer again, and a listing; an answer that is not traced has none."""
    telemetry, _ = recording()
    traced, plain = await stack.router(telemetry=telemetry), await stack.router()
    stub, other = await stack.stub(traced), await stack.stub(plain)
    first = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=10, session_id="s"))
    again = await take(other, router_pb2.GenerateRequest(session_id="s", resume_from=len(first.tokens)))
    assert again.trace_id == first.trace_id != ""
    second = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=10, session_id="s"))
    assert second.trace_id not in ("", first.trace_id)
    listed = await other.ListTrajectories(router_pb2.ListTrajectoriesRequest())
    assert [each.trace_id for each in listed.trajectories] == [second.trace_id]
    await take(other, ask_for(policy=threshold(0.5), max_new_tokens=10, session_id="s"))
    kept = await stub.GetTrajectory(router_pb2.GetTrajectoryRequest(session_id="s"))
    assert kept.trajectory.trace_id == ""
