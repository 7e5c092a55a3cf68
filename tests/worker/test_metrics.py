"""What a worker counts arrives at a real OTLP receiver."""

from __future__ import annotations

import asyncio

from rstitch.service import semconv
from rstitch.v1 import worker_pb2
from tests.support.otlp_receiver import MetricsReceiver
from tests.worker.conftest import StartWorker


async def test_metrics_of_a_worker_are_what_it_did(start_worker: StartWorker) -> None:
    with MetricsReceiver() as receiver:
        worker, stub = await start_worker(metrics_endpoint=receiver.endpoint, num_pages=64)
        stream = stub.Decode()
        for request in (
            worker_pb2.DecodeRequest(session_id="s", tokens=[1, 2, 3, 4, 5]),
            worker_pb2.DecodeRequest(session_id="s", position=5, tokens=[6], max_tokens=20),
        ):
            await stream.write(request)
            while not (await stream.read()).HasField("finish"):
                pass
        await stream.done_writing()
        async for _ in stub.Observe(worker_pb2.ObserveRequest(tokens=range(9, 24), start=5, above=2)):
            pass
        info = await stub.GetInfo(worker_pb2.GetInfoRequest())
        await asyncio.to_thread(worker.metrics.shutdown)

    counters = info.counters
    steps = receiver.points(semconv.METRIC_WORKER_STEPS)
    assert steps == [({semconv.RSTITCH_BATCH: "1"}, counters.num_steps)]
    assert receiver.total(semconv.METRIC_WORKER_KEPT_TOKENS) == counters.num_kept_tokens > 0
    assert receiver.total(semconv.METRIC_WORKER_COMPUTED_TOKENS) == counters.num_computed_tokens
    assert receiver.total(semconv.METRIC_WORKER_FORWARD_TIME) == counters.forward_us / 1e6 > 0
    ((_, (num_timed, total_s)),) = receiver.points(semconv.METRIC_WORKER_STEP_DURATION)
    assert num_timed == counters.num_steps
    assert total_s >= counters.forward_us / 1e6
    queued = {a[semconv.RSTITCH_RUN_KIND]: v for a, v in receiver.points(semconv.METRIC_WORKER_QUEUE_TIME)}
    assert {kind: count for kind, (count, _) in queued.items()} == {"background": 1, "decode": 1, "observe": 1}
    assert receiver.total(semconv.METRIC_WORKER_OBSERVED_POSITIONS) == 10
    pages = {a[semconv.RSTITCH_STATE]: v for a, v in receiver.points(semconv.METRIC_WORKER_PAGES)}
    assert pages == {"free": info.capacity.num_free_pages, "cached": 0, "used": 64 - info.capacity.num_free_pages}
    assert receiver.total(semconv.METRIC_WORKER_SESSIONS) == 1
    # The one that is left is idle, and makes room.
    assert receiver.total(semconv.METRIC_WORKER_AVAILABLE_PAGES) == 64 > info.capacity.num_free_pages
    assert receiver.total(semconv.METRIC_WORKER_RUNS) == receiver.total(semconv.METRIC_WORKER_WAITING) == 0
    declared = {value for name, value in vars(semconv).items() if name.startswith("METRIC_WORKER_")}
    assert declared <= receiver.names
