"""What a router counts arrives at a real OTLP receiver or scraper, and is what its answers say."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from prometheus_client.metrics_core import Metric

from router_svc.observers.stretches import Stretches, StretchMetrics
from router_svc.trajectory.types import Chunk, Source, SwitchReason, entropies_of, tokens_of
from rstitch.service import semconv
from rstitch.service.metrics import setup_metrics
from rstitch.service.telemetry import setup_telemetry
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, refused, take, threshold, until
from tests.support.otlp_receiver import MetricsReceiver, OtlpReceiver
from tests.support.redis_process import RedisProcess
from tests.support.scraped import OPENMETRICS, parsed, samples
from tests.support.toy_stack import Stack


async def test_metrics_of_answers_are_those_of_their_usage(stack: Stack) -> None:
    with MetricsReceiver() as receiver:
        metrics = setup_metrics("router", receiver.endpoint)
        stub = await stack.stub(await stack.router(metrics=metrics, detach_grace_s=0))
        asked = [threshold(0.5)] * 8 + [router_pb2.Policy(llm_only={})] * 8
        answers = [await take(stub, ask_for(policy=policy, max_new_tokens=40)) for policy in asked]
        usages = [answer.finished.usage for answer in answers]
        stack.slm.delay_s = 0.02
        lost = await take(stub, ask_for(policy=threshold(1.0), session_id="s"), num_tokens=1)
        assert lost.error is None
        await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="s"))
        metrics.shutdown()

    def by(name: str, attribute: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        for attributes, value in receiver.points(name):
            sums[attributes[attribute]] = sums.get(attributes[attribute], 0) + value
        return sums

    ends = {
        (attributes[semconv.RSTITCH_POLICY], attributes.get(semconv.ERROR_TYPE)): (value, attributes)
        for attributes, value in receiver.points(semconv.METRIC_ANSWERS)
    }
    assert ends["threshold", None][0] + ends["llm_only", None][0] <= receiver.total(semconv.METRIC_ANSWERS) == 17
    assert [value for (_, error), (value, _) in ends.items() if error] == [1]
    assert all(attributes[semconv.RSTITCH_GUARDED] is False for _, attributes in ends.values())
    tokens = by(semconv.METRIC_TOKENS, semconv.RSTITCH_MODEL)
    assert tokens == {"slm": sum(u.num_slm_tokens for u in usages), "llm": sum(u.num_llm_tokens for u in usages)}
    for name, field in (
        (semconv.METRIC_SWITCHES, "num_switches"),
        (semconv.METRIC_DISCARDED_PROPOSALS, "num_discarded_proposals"),
        (semconv.METRIC_CATCH_UP_TOKENS, "num_catch_up_tokens"),
    ):
        assert receiver.total(name) == sum(getattr(usage, field) for usage in usages)
    durations = [value for _, value in receiver.points(semconv.GEN_AI_SERVER_REQUEST_DURATION)]
    assert sum(count for count, _ in durations) == 16
    assert round(1e6 * sum(total for _, total in durations)) == sum(u.total_time_us for u in usages)
    assert semconv.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN in receiver.names
    assert semconv.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN in receiver.names
    assert receiver.total(semconv.METRIC_RUNNING) == 0
    costs = by(semconv.METRIC_GUARD_COST, semconv.RSTITCH_POLICY)
    assert set(costs) == {"routed", "llm_only"}
    assert all(costs.values())
    assert [a[semconv.RSTITCH_LOAD] for a, _ in receiver.points(semconv.METRIC_GUARD_LLM_ONLY)] == ["1 session"]


async def test_segments_and_entropies_are_those_of_the_trajectories(stack: Stack) -> None:
    metrics = setup_metrics("router", None, scraped=True)
    stub = await stack.stub(await stack.router(metrics=metrics))
    policies = [threshold(0.5), threshold(0.5, 0.3), router_pb2.Policy(slm_only={})]
    answers = [await take(stub, ask_for(policy=policy, max_new_tokens=40)) for policy in policies]
    families = parsed(metrics.exposition(OPENMETRICS)[0].decode())
    lengths: dict[tuple[str, str], list[int]] = {}
    entropies: dict[str, list[float]] = {"slm": [], "llm": []}
    for answer in answers:
        names = {value.number: value.name.lower() for value in router_pb2.SwitchReason.DESCRIPTOR.values}
        starts = [(answer.position, "start")]
        starts += [(each.position, names[each.reason].removeprefix("switch_reason_")) for each in answer.switches]
        ends = [position for position, _ in starts[1:]] + [answer.next]
        for (position, reason), end in zip(starts, ends, strict=True):
            if end > position:
                model = answer.authors[position - answer.position]
                lengths.setdefault((model, reason), []).append(end - position)
        for author, entropy in zip(answer.authors, answer.entropies, strict=True):
            entropies[author].append(entropy)
        # What the SLM proposed and did not get to write was looked at, too.
        entropies["slm"] += [
            each.entropy
            for each, (_, reason) in zip(answer.switches, starts[1:], strict=True)
            if reason == "entropy_above"
        ]
    assert {reason for _, reason in lengths} == {"start", "entropy_above", "entropy_below"}
    for (model, reason), found in lengths.items():
        labels = (("rstitch_model", model), ("rstitch_reason", reason))
        assert samples(families, "rstitch_segment_length_sum")[labels] == sum(found)
    for model, seen in entropies.items():
        labels = (("rstitch_model", model),)
        assert samples(families, "rstitch_entropy_count")[labels] == len(seen) > 10
        assert samples(families, "rstitch_entropy_sum")[labels] == pytest.approx(sum(seen), rel=1e-5)
        for key, num in samples(families, "rstitch_entropy_bucket").items():
            bound, of = dict(key)["le"], dict(key)["rstitch_model"]
            if of == model and bound != "+Inf":
                assert num == sum(entropy <= float(bound) for entropy in seen), bound


def test_an_answer_counts_the_same_in_any_pieces() -> None:
    """Chunk by chunk as it is written, or all at once; the end looks at none of them."""
    draws = random.Random(4)
    chunks: list[Chunk] = []
    for _ in range(3000):
        reason = draws.choice([SwitchReason.NONE, SwitchReason.NONE, SwitchReason.ENTROPY_ABOVE])
        entropies = entropies_of(draws.random() for _ in range(draws.randrange(4)))
        source = draws.choice([Source.SLM, Source.LLM]) if reason else (chunks[-1].source if chunks else Source.SLM)
        value = draws.random() if reason else 0.0
        chunks.append(Chunk(source, 0, tokens_of(range(len(entropies))), entropies, reason, value))
    lengths: Counter[tuple[str, str]] = Counter()
    sums: Counter[str] = Counter()
    segment = ("slm", "start")
    for chunk in chunks:
        if chunk.reason:
            segment = (chunk.source.model.label, "entropy_above")
            sums[chunk.source.model.other.label] += chunk.switch_entropy
        lengths[segment] += len(chunk.tokens)
        sums[chunk.source.model.label] += sum(chunk.entropies)
    for size in (1, 7, len(chunks)):
        metrics = setup_metrics("router", None, scraped=True)
        metrics.meter.create_counter("questions").add(1)  # where there is nothing else nothing is written
        counted, stretches = StretchMetrics(metrics), Stretches()
        for first in range(0, len(chunks), size):
            stretches.add(chunks[first : first + size])
        counted.count(stretches)
        families = parsed(metrics.exposition(OPENMETRICS)[0].decode())
        found = samples(families, "rstitch_segment_length_sum")
        assert found == {(("rstitch_model", m), ("rstitch_reason", r)): n for (m, r), n in lengths.items()}
        segments = sum(samples(families, "rstitch_segment_length_count").values())
        assert segments == 1 + sum(bool(chunk.reason) for chunk in chunks)
        assert samples(families, "rstitch_entropy_sum") == {
            (("rstitch_model", m),): pytest.approx(total, rel=1e-5) for m, total in sums.items()
        }


async def test_an_exemplar_is_the_trace_of_the_question(stack: Stack) -> None:
    metrics = setup_metrics("router", None, scraped=True)
    with OtlpReceiver() as receiver:
        telemetry = setup_telemetry("router", receiver.endpoint)
        stub = await stack.stub(await stack.router(metrics=metrics, telemetry=telemetry))
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        told = (("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),)
        answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20), metadata=told)
        body = metrics.exposition(OPENMETRICS)[0].decode()
        telemetry.shutdown()
        (root,) = receiver.named("rstitch.generate")
    assert answer.trace_id == trace_id == root.trace_id.hex()
    found = {
        sample.name: sample.exemplar
        for family in parsed(body)
        for sample in family.samples
        if sample.exemplar is not None
    }
    timed = ("request_duration", "time_to_first_token", "time_per_output_token")
    assert set(found) == {f"gen_ai_server_{name}_seconds_bucket" for name in timed}
    for exemplar in found.values():
        assert exemplar.labels == {"trace_id": trace_id, "span_id": root.span_id.hex()}
    assert "trace_id" not in metrics.exposition("text/plain")[0].decode()


async def test_readiness_and_refusals_are_told(stack: Stack) -> None:
    metrics = setup_metrics("router", None, scraped=True)
    router = await stack.router(metrics=metrics, tau=0.125)
    stub = await stack.stub(router)

    def values(name: str) -> dict[tuple[tuple[str, str], ...], float]:
        return samples(parsed(metrics.exposition(OPENMETRICS)[0].decode()), name)

    slm, llm = ((("rstitch_model", name),) for name in ("slm", "llm"))
    assert values("rstitch_ready") == {(): 1}
    assert values("rstitch_connected") == {slm: 1, llm: 1}
    assert values("rstitch_tau") == {(): 0.125}
    refusals = [
        (stub.Generate, ask_for(policy=threshold(float("nan"))), "INVALID_FIELD"),
        (stub.Generate, ask_for(session_id="unknown", resume_from=0), "UNKNOWN_SESSION"),
        (stub.GetTrajectory, router_pb2.GetTrajectoryRequest(session_id="unknown"), "UNKNOWN_SESSION"),
    ]
    for method, request, reason in refusals:
        assert (await refused(method(request))).reason == reason
    assert values("rstitch_refusals_total") == {
        (("error_type", "INVALID_FIELD"), ("rpc_method", "Generate")): 1,
        (("error_type", "UNKNOWN_SESSION"), ("rpc_method", "Generate")): 1,
        (("error_type", "UNKNOWN_SESSION"), ("rpc_method", "GetTrajectory")): 1,
    }
    await stack.llm.stop()
    await until(lambda: values("rstitch_connected") == {slm: 1, llm: 0})
    assert values("rstitch_ready") == {(): 1}, "an answer waits for a worker that is away for a while"
    await router.server.stop(0)
    assert values("rstitch_ready") == {(): 0}


async def test_appends_to_redis_are_timed_and_failed_ones_named(stack: Stack, redis_process: RedisProcess) -> None:
    metrics = setup_metrics("router", None, scraped=True)
    stub = await stack.stub(await stack.router(metrics=metrics, redis_patience_s=30))
    duration = "rstitch_redis_append_duration_seconds_count"

    def scraped() -> list[Metric]:
        return parsed(metrics.exposition(OPENMETRICS)[0].decode())

    await asyncio.gather(*(take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20)) for _ in range(8)))
    found = scraped()
    ((_, num_trips),) = samples(found, duration).items()
    assert 0 < num_trips <= samples(found, "rstitch_redis_appends_total")[()]
    stack.slm.delay_s = stack.llm.delay_s = 0.02
    asking = asyncio.create_task(take(stub, ask_for(policy=threshold(0.5), session_id="s", max_new_tokens=400)))
    await until(lambda: sum(samples(scraped(), duration).values()) >= num_trips + 2)
    redis_process.stop()
    await until(lambda: any(dict(labels).get("error_type") for labels in samples(scraped(), duration)))
    redis_process.start()
    asking.cancel()
    await asyncio.wait({asking})
