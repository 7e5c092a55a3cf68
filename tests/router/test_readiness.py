"""The router says what it waits for, and takes questions only when the pair is sound."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router_svc.trajectory.types import Model
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, refused, take, threshold, until
from tests.support.redis_process import RedisProcess
from tests.support.toy import Scripted, at, make_tokenizer_files, unstitchable_files
from tests.support.toy_stack import Stack, script

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(port: int) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service="rstitch.v1.RouterService")
        return (await health_pb2_grpc.HealthStub(channel).Check(request)).status


async def status(stub: Any) -> router_pb2.GetStatusResponse:
    return await stub.GetStatus(router_pb2.GetStatusRequest())


async def until_ready(stub: Any, ready: bool = True) -> router_pb2.GetStatusResponse:
    async def reached() -> Any:
        found = await status(stub)
        return found if found.ready is ready else None

    return await until(reached)


async def until_it_says(stub: Any, what: str) -> router_pb2.GetStatusResponse:
    async def said() -> Any:
        found = await status(stub)
        return found if what in found.detail else None

    return await until(said)


async def test_waits_for_a_worker_and_says_so(stack: Stack) -> None:
    await stack.llm.stop()
    router = await stack.router(ready=False)
    stub = await stack.stub(router)
    found = await status(stub)
    assert not found.ready
    assert f"LLM worker at {stack.llm.address}" in found.detail
    assert await health(router.port) == NOT_SERVING
    error = await refused(stub.Generate(ask_for()))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    assert "the worker of the LLM" in error.message

    await stack.llm.start()
    found = await until_ready(stub)
    assert [worker.ready for worker in found.workers] == [True, True]
    assert [worker.model for worker in found.workers] == ["toy-1", "toy-2"]
    assert set(found.policies) == {kind.name for kind in router_pb2.Policy.DESCRIPTOR.fields}
    assert found.default_tau == 0.02
    assert await health(router.port) == SERVING
    assert (await take(stub, ask_for())).error is None


async def test_waits_for_redis_and_says_so(stack: Stack, redis_process: RedisProcess) -> None:
    redis_process.stop()
    router = await stack.router(ready=False)
    stub = await stack.stub(router)
    assert f"redis at {stack.redis_url}" in (await status(stub)).detail
    assert await health(router.port) == NOT_SERVING
    redis_process.start()
    await until_ready(stub)
    assert (await take(stub, ask_for())).error is None


async def test_a_worker_that_is_there_and_keeps_silent_is_named(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())

    async def told(*details: str) -> Any:
        return [worker.detail for worker in (await status(stub)).workers] == [*details] or None

    await until(lambda: told("", ""))
    stack.slm.answering.clear()
    await until(lambda: told("no answer", ""))
    stack.slm.answering.set()
    await until(lambda: told("", ""))


async def test_two_models_that_cannot_be_stitched_are_refused_by_name(stack: Stack) -> None:
    stack.llm.files = unstitchable_files()
    router = await stack.router(ready=False)
    stub = await stack.stub(router)
    found = await until_it_says(stub, "cannot be stitched")  # before, it says whose tokenizer is being read
    assert not found.ready
    assert "LLM" in found.detail
    assert await health(router.port) == NOT_SERVING
    error = await refused(stub.Generate(ask_for()))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TOKENIZER_MISMATCH")
    assert error.message == found.detail
    assert error.remedy

    await stack.llm.stop()
    stack.llm.files = make_tokenizer_files()
    await stack.llm.start()
    await until_ready(stub)
    assert await health(router.port) == SERVING


async def test_a_worker_that_comes_back_with_another_tokenizer_is_noticed(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    await stack.slm.stop()
    stack.slm.files = unstitchable_files()
    await stack.slm.start()
    await until_ready(stub, ready=False)
    answer = await take(stub, ask_for())
    while answer.error is not None and answer.error.reason == "NOT_READY":  # until it is back
        answer = await take(stub, ask_for())
    assert answer.error is not None
    assert answer.error.reason == "TOKENIZER_MISMATCH"


@pytest.mark.parametrize("run_ahead", ["on", "off"])
async def test_one_that_was_lost_while_the_other_wrote_is_looked_at_first(stack: Stack, run_ahead: str) -> None:
    """Nobody waited for the SLM when it went; what it is now must not write into the answer."""
    script(stack, Scripted(1, unsure=at(6)), Scripted(2))
    stub = await stack.stub(await stack.router(run_ahead=run_ahead))
    before, llm_has_the_pen = stack.slm.instance_id, asyncio.Event()

    async def until_restarted() -> None:
        llm_has_the_pen.set()
        await until(lambda: stack.slm.instance_id != before)

    stack.llm.pace = until_restarted
    asked = asyncio.create_task(take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20)))
    await llm_has_the_pen.wait()
    await stack.slm.stop()
    stack.slm.files = unstitchable_files()
    await stack.slm.start()
    answer = await asked
    assert answer.error is not None
    assert answer.error.reason == "TOKENIZER_MISMATCH"
    assert answer.authors == ["slm"] * 3 + ["llm"]


async def test_swapped_addresses_are_refused(stack: Stack) -> None:
    router = await stack.router(ready=False, slm=stack.llm.address, llm=stack.slm.address)
    stub = await stack.stub(router)
    await until_it_says(stub, "it says that it is the LLM")
    assert not (await status(stub)).ready


async def test_a_role_that_nobody_knows_is_refused_and_the_watch_goes_on(stack: Stack) -> None:
    stack.slm.role = 77
    stub = await stack.stub(await stack.router(ready=False))
    await until_it_says(stub, "its role is 77")
    stack.slm.role = 1
    await until_ready(stub)


async def test_a_restarted_worker_does_not_cost_the_tokenizer_again(stack: Stack) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    before = router.fleet.vocabularies
    await stack.slm.stop()
    await stack.slm.start()
    known = stack.slm.instance_id

    def seen() -> bool:
        info = router.fleet.info(Model.SLM)
        return info is not None and info.instance_id == known

    await until(seen)
    assert router.fleet.vocabularies is before
    assert (await take(stub, ask_for())).error is None
