"""What a router counts arrives at a real OTLP receiver, and is what its answers say."""

from __future__ import annotations

from rstitch.service import semconv
from rstitch.service.metrics import setup_metrics
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, take, threshold
from tests.support.otlp_receiver import MetricsReceiver
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
