"""A worker says in a real Redis that it is there, how full it is, and that it goes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from fleet.announcement import Announcement
from fleet.registry import TTL_S, Registry
from model_worker import announcing
from model_worker.engine.engine import Engine
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.errors import RstitchError
from rstitch.v1 import common_pb2
from rstitch.v1 import worker_pb2 as pb
from storage.redis_link import RedisLink
from tests.support.redis_process import RedisProcess
from tests.support.shared_layers import save_pair
from tests.support.worker_process import worker_process
from tests.worker.conftest import ROLE, StartWorker

PROMPT = [7, 8, 9, 10, 11]


async def announced(link: RedisLink, wanted: Callable[[Announcement], bool] = lambda worker: True) -> Announcement:
    """Returns the SLM's announcement once it is there, and as wanted."""
    registry = Registry(link, "default")
    async with asyncio.timeout(30):
        while True:
            for worker in await registry.read("slm"):
                if wanted(worker):
                    return worker
            await asyncio.sleep(0.02)


async def test_a_worker_announces_itself_and_how_full_it_is(
    start_worker: StartWorker, redis_process: RedisProcess, link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "BEAT_S", 0.02)
    worker, stub = await start_worker(redis=redis_process.url, measure_ms=0, num_pages=64, page_size=16)
    info = await stub.GetInfo(pb.GetInfoRequest())
    said = await announced(link)
    assert said.id == info.worker_id == f"slm-127.0.0.1-{worker.port}"
    assert said.address == f"127.0.0.1:{worker.port}"
    assert said.instance_id == info.instance_id
    assert said.fingerprint == f"{info.weights_fingerprint}/{info.tokenizer_fingerprint}"
    assert (said.num_pages, said.num_free_pages, said.num_sessions, said.num_cards) == (64, 64, 0, 1)

    launch = Engine.launch

    def slowly(engine: Engine) -> Any:  # so that the answer is seen while it is written
        time.sleep(0.01)
        return launch(engine)

    monkeypatch.setattr(Engine, "launch", slowly)
    call: Any = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT * 20, max_tokens=400, stop_tokens=[299]))
    await call.read()
    busy = await announced(link, lambda worker: worker.num_free_pages <= 64 - 7)  # 100 tokens and more
    assert (busy.num_sessions, busy.num_running) == (1, 1)
    call.cancel()
    # What an idle session has is evicted for whoever needs it.
    idle = await announced(link, lambda worker: worker.num_free_pages == 64)
    assert (idle.num_sessions, idle.num_running) == (1, 0)

    assert worker.announcer is not None
    await worker.announcer.stop()
    assert await Registry(link, "default").read("slm") == []


async def test_its_beats_wait_for_no_step(
    start_worker: StartWorker, redis_process: RedisProcess, link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stub = await start_worker(redis=redis_process.url, measure_ms=0)
    await announced(link)
    entered, leave, launch = threading.Event(), threading.Event(), Engine.launch

    def slow(engine: Engine) -> Any:
        entered.set()
        leave.wait()
        return launch(engine)

    monkeypatch.setattr(Engine, "launch", slow)
    call: Any = stub.Step(pb.StepRequest(session_id="s", tokens=PROMPT))
    step = asyncio.ensure_future(call)
    try:
        assert await asyncio.to_thread(entered.wait, 30)
        drained = await stub.Drain(pb.DrainRequest())
        assert (drained.num_running, drained.num_streams) == (1, 1)
        assert (await announced(link, lambda worker: worker.draining)).num_running == 1
    finally:
        leave.set()
    await step
    assert (await stub.Drain(pb.DrainRequest())).num_streams == 0


async def test_with_shared_layers_both_roles_are_announced(
    redis_process: RedisProcess, link: RedisLink, tmp_path: Any
) -> None:
    from model_worker.main import start

    folder = save_pair(tmp_path / "model")
    settings = WorkerSettings(
        model=str(folder),
        listen="127.0.0.1:0",
        shared_listen="127.0.0.1:0",
        dtype="float64",
        num_pages=32,
        redis=redis_process.url,
        measure_ms=0,
        worker_id="both",
    )
    worker = await start(Role("llm", common_pb2.MODEL_LLM, WorkerSettings), settings, lambda error: None)
    slm = await announced(link)
    (llm,) = await Registry(link, "default").read("llm")
    assert (slm.id, llm.id) == ("both-slm", "both")
    assert slm.weights_fingerprint != llm.weights_fingerprint
    assert slm.address != llm.address
    await worker.stop()
    assert await Registry(link, "default").read("llm") == []


async def test_a_worker_serves_without_redis_and_comes_once_it_is_back(
    start_worker: StartWorker, redis_process: RedisProcess, link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "BEAT_S", 0.05)
    redis_process.stop()
    with capture_logs() as logs:
        _, stub = await start_worker(redis=redis_process.url, measure_ms=0, worker_id="slm-0")
        assert (await stub.Step(pb.StepRequest(session_id="s", tokens=PROMPT))).held == len(PROMPT)
        for _ in range(20):  # several beats come to nothing
            await asyncio.sleep(0.05)
        redis_process.start()
        assert (await announced(link)).id == "slm-0"
    told = [log["event"] for log in logs if "announced" in log["event"]]
    assert told == ["not announced: no redis", "announced"]


@pytest.mark.parametrize(
    ("other", "reason"), [({"dtype": "float32"}, "MIXED_FLEET"), ({"worker_id": "slm-0"}, "WORKER_ID_TAKEN")]
)
async def test_whom_the_fleet_refuses_is_tried_again_before_it_gives_up(
    start_worker: StartWorker,
    redis_process: RedisProcess,
    link: RedisLink,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, str],
    reason: str,
) -> None:
    monkeypatch.setattr(announcing, "_PATIENCE_S", 0.2)
    await start_worker(redis=redis_process.url, measure_ms=0, worker_id="slm-0")
    await announced(link)
    second, _ = await start_worker(redis=redis_process.url, measure_ms=0, **{"worker_id": "slm-1"} | other)
    assert second.announcer is not None
    assert second.announcer.beating is not None
    with pytest.raises(RstitchError) as refusal:
        await second.announcer.beating
    assert refusal.value.reason == reason
    assert [worker.id for worker in await Registry(link, "default").read("slm")] == ["slm-0"]
    # One of another fleet is none of theirs.
    await start_worker(redis=redis_process.url, measure_ms=0, fleet="another", **{"worker_id": "slm-1"} | other)
    await second.announcer.stop()
    assert len(await Registry(link, "default").read("slm")) == 1


async def test_who_was_taken_for_one_that_died_is_let_in(
    start_worker: StartWorker, redis_process: RedisProcess, link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "BEAT_S", 0.05)
    said = Announcement("slm-0", "slm", "10.0.0.1:1", "old", "w", "t", "m", "0", 1, 1, 0, 0, 0, False)
    await Registry(link, "default", ttl_s=1).beat(said)
    await start_worker(redis=redis_process.url, measure_ms=0, worker_id="slm-0")
    assert (await announced(link, lambda worker: worker.instance_id != "old")).id == "slm-0"


async def test_a_refused_worker_ends_with_what_it_was_refused_by(
    model_folder: Path, redis_process: RedisProcess, link: RedisLink, tmp_path: Path
) -> None:
    """A process of its own: its end would be this one's."""
    said = Announcement("slm-0", "slm", "10.0.0.1:1", "old", "w" * 64, "t" * 64, "m", "0", 1, 1, 0, 0, 0, False)
    await Registry(link, "default", ttl_s=60).beat(said)
    async with worker_process(model_folder, tmp_path / "log", "--redis", redis_process.url) as (process, _):
        assert await asyncio.to_thread(process.wait, 30) == 1
        log = (tmp_path / "log").read_text()
    assert "w" * 64 in log
    assert "--fleet" in log


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"listen": "0.0.0.0:0", "insecure": True, "redis": "unix:///tmp/redis.sock"}, "--listen"),
        ({"listen": "0.0.0.0:0", "insecure": True, "redis": "redis://no-such-host.invalid:1/0"}, "--listen"),
        ({"listen": "127.0.0.1:0", "redis": "redis://127.0.0.1:1/0", "advertise": "0.0.0.0:7"}, "--advertise"),
        ({"listen": "127.0.0.1:0", "redis": "redis://127.0.0.1:1/0", "redis_ca": "/nowhere"}, "--redis-ca"),
    ],
)
async def test_an_address_that_routers_cannot_use_is_refused_before_a_model_is_loaded(
    settings: dict[str, Any], field: str
) -> None:
    from model_worker.main import start

    with pytest.raises(RstitchError) as refusal:
        await start(ROLE, WorkerSettings(model="/nowhere", **settings), lambda error: None)
    assert refusal.value.field == field
    assert refusal.value.remedy


async def test_a_redis_that_refuses_is_asked_again_while_routers_keep_those_who_were_there(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the first worker is heard again, routers wait so long for the others."""
    pauses: list[float] = []
    timeout = asyncio.timeout

    async def refused(registry: Registry, worker: Any) -> None:
        raise RstitchError(grpc.StatusCode.UNAVAILABLE, "REDIS_REFUSED", "it is full")

    def at_once(delay_s: float) -> asyncio.Timeout:
        pauses.append(delay_s)
        return timeout(0)

    monkeypatch.setattr(Registry, "beat", refused)
    monkeypatch.setattr(announcing.Announcer, "_now", lambda announcer: [None])
    monkeypatch.setattr(asyncio, "timeout", at_once)
    beating = announcing.Announcer(link, "default", lambda: None).start()  # type: ignore[arg-type,return-value]
    while len(pauses) < 20:
        assert not beating.done()
        await asyncio.sleep(0)
    beating.cancel()
    await asyncio.wait({beating})
    assert max(pauses) < TTL_S
