"""How the router shows its workers who it is, and what is renewed under answers that are being written."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from rstitch.errors import RstitchError, from_rpc_error
from rstitch.service.tls import TlsSettings
from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, take, threshold, until
from tests.support.certificates import Authority
from tests.support.endless import endless, expected
from tests.support.redis_process import RedisProcess
from tests.support.toy_stack import Stack


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    (folder := tmp_path / "redis").mkdir()
    redis = RedisProcess(folder)
    redis.start()
    made = Stack(redis.url)
    yield made
    await made.close()
    redis.stop()


async def start_workers(stack: Stack, live: Authority | None = None) -> None:
    for worker in (stack.slm, stack.llm):
        if live is not None:
            settings = {**live.served_as("slm"), "tls_client_ca": live.ca, "tls_client_name": "router"}
            worker.tls = TlsSettings(**settings).server_tls()
        await worker.start()


def shown(authority: Authority, **changes: str) -> dict[str, str]:
    """The router's flags towards its workers."""
    files = {"worker_tls_cert": authority.file("router.pem"), "worker_tls_key": authority.file("router.key")}
    return {"worker_tls_ca": authority.ca, "worker_tls_name": "worker", **files, **changes}


def renew(authority: Authority, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("ca.pem", "slm.pem", "slm.key", "router.pem", "router.key"):
        shutil.copy(authority.file(name), made := folder / f"{name}.new")
        made.rename(folder / name)


async def test_certificates_of_both_sides_are_renewed_under_an_answer(
    stack: Stack, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    """The answer that is being written goes on, and the next one is asked with the new certificates alone."""
    renew(ours, live := tmp_path / "live")
    await start_workers(stack, Authority(live))
    endless(stack)
    stack.slm.evict_share = stack.llm.evict_share = 0  # of which a worker breaks a stream off
    stub = await stack.stub(await stack.router(**shown(Authority(live))))
    ask = ask_for(policy=threshold(0.5), max_new_tokens=300)
    reading = await Reading(stub, ask).has(20)
    stack.slm.metadata.clear()
    renew(theirs, live)
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=40))
    assert not reading.is_over
    assert (answer.error, (answer.tokens, answer.authors)) == (None, expected(stack, 40))
    before = await reading
    assert (before.error, (before.tokens, before.authors)) == (None, expected(stack, 300))
    opened = [call for call in stack.slm.metadata if call["call"] == "Decode"]
    assert len(opened) == 1, "the answer before kept its own stream"


async def test_a_router_without_the_right_certificate_is_not_ready_and_says_so(
    stack: Stack, ours: Authority, theirs: Authority
) -> None:
    await start_workers(stack, ours)
    for wrong in (
        {},
        {"worker_tls_ca": ours.ca},
        shown(theirs, worker_tls_ca=ours.ca),
        shown(ours, worker_tls_ca=theirs.ca),
        shown(ours, worker_tls_name="llm"),
        shown(ours, worker_tls_cert=ours.file("client.pem"), worker_tls_key=ours.file("client.key")),
    ):
        stub = await stack.stub(await stack.router(ready=False, **wrong))

        async def told(stub: object = stub) -> bool:
            found = await stub.GetStatus(router_pb2.GetStatusRequest())  # type: ignore[attr-defined]
            return all(worker.detail for worker in found.workers) and not found.ready

        await until(told)
    assert stack.slm.metadata == [], "nothing was asked of a worker"


async def test_workers_are_shown_the_key_and_the_new_one_once_it_changes(stack: Stack, tmp_path: Path) -> None:
    await start_workers(stack)
    (file := tmp_path / "key").write_text("rs-first\n")
    stub = await stack.stub(await stack.router(worker_key_file=str(file)))
    await take(stub, ask_for(max_new_tokens=4))
    assert stack.slm.metadata
    assert {call["authorization"] for call in stack.slm.metadata} == {"Bearer rs-first"}
    stack.slm.metadata.clear()
    file.write_text("rs-second")
    await take(stub, ask_for(max_new_tokens=4))
    assert {call["authorization"] for call in stack.slm.metadata} == {"Bearer rs-second"}
    file.write_text("")  # somebody is writing it
    assert (await take(stub, ask_for(max_new_tokens=4))).error is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "BAD_KEY"),
        (grpc.StatusCode.UNAUTHENTICATED, "NO_KEY"),
        (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (grpc.StatusCode.PERMISSION_DENIED, "WRONG_CERTIFICATE"),
    ],
)
async def test_a_router_that_a_worker_refuses_does_not_blame_its_caller(
    stack: Stack, code: grpc.StatusCode, reason: str
) -> None:
    """Whoever asked showed a good key; which one is bad only the operator is told."""
    await start_workers(stack)
    stub = await stack.stub(await stack.router())
    kept = await take(stub, ask_for(max_new_tokens=4))
    refusal = RstitchError(code, reason, "the key is not valid.", remedy="Ask for another key.")
    stack.slm.errors, stack.slm.observe_errors = [refusal], [refusal]
    with capture_logs() as logs:
        answer = await take(stub, ask_for(max_new_tokens=4))
        with pytest.raises(grpc.aio.AioRpcError) as observed:
            async for _ in stub.ObserveAnswer(router_pb2.ObserveAnswerRequest(session_id=kept.session_id, tau=-1)):
                pass
    assert answer.error is not None
    for error in (answer.error, from_rpc_error(observed.value)):
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE")
        assert "key" not in str(error)
    told = [line for line in logs if line["event"] == "worker refuses this router"]
    assert [(line["model"], line["reason"]) for line in told] == [("slm", reason)] * 2


async def test_flags_towards_workers_are_refused_by_name(stack: Stack, ours: Authority, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    for flag, wrong in (
        ("--worker-tls-ca", {"worker_tls_ca": gone}),
        ("--worker-tls-key", {"worker_tls_ca": ours.ca, "worker_tls_cert": ours.file("router.pem")}),
        ("--worker-tls-cert", {"worker_tls_cert": ours.file("router.pem")}),
        ("--worker-tls-name", {"worker_tls_name": "worker"}),
        ("--worker-key-file", {"worker_key_file": gone}),
        ("--worker-key-file", {"worker_key_file": ours.ca, "worker_key": "rs-hunter2"}),
        ("--worker-key", {"worker_key": "rs-hunter2 "}),
    ):
        with pytest.raises(RstitchError) as refused:
            await stack.router(ready=False, **wrong)
        assert (refused.value.field, refused.value.code) == (flag, grpc.StatusCode.INVALID_ARGUMENT), wrong
        assert not any(word in str(refused.value) for word in ("hunter2", str(tmp_path)))
