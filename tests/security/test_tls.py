"""Whose certificate opens which port, what a bad file does, and certificates that are renewed under load."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from model_worker.main import start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.authority import PARTS
from rstitch.credentials import Credentials
from rstitch.errors import RstitchError
from rstitch.service.tls import TlsSettings
from rstitch.v1 import common_pb2, worker_pb2, worker_pb2_grpc
from tests.support.certificates import Authority
from tests.support.fake_worker import FakeWorker
from tests.support.toy import ToyModel

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts workers with settings of TLS; gives their addresses."""
    running: list[FakeWorker] = []

    async def begin(**settings: str) -> str:
        worker = FakeWorker(1, ToyModel(seed=1))
        worker.tls = TlsSettings(**settings).server_tls()
        await worker.start()
        running.append(worker)
        return worker.address

    yield begin
    for worker in running:
        await worker.stop()


async def _ask_info(channel: Any) -> None:
    await worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest(), timeout=10)


async def _ask_health(channel: Any) -> None:
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)


async def _ask_what_there_is(channel: Any) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    async for _ in stub.ServerReflectionInfo(requests, timeout=10):
        pass


CALLS = (_ask_info, _ask_health, _ask_what_there_is)


async def codes(address: str, credentials: Credentials) -> set[grpc.StatusCode]:
    """What a client with these credentials gets for each kind of call."""
    found = set()
    async with credentials.aio_channel(address) as channel:
        for ask in CALLS:
            try:
                await ask(channel)
            except grpc.aio.AioRpcError as error:
                found.add(error.code())
            else:
                found.add(grpc.StatusCode.OK)
    return found


def files_for(serving: Authority, **more: str) -> dict[str, str]:
    """Settings of a worker that takes nobody without a certificate."""
    return {**serving.served_as("slm"), "tls_client_ca": serving.ca, **more}


async def test_a_worker_answers_whom_it_was_told_to(serve: Serve, ours: Authority) -> None:
    address = await serve(**files_for(ours, tls_client_name="router, slm"))
    assert await codes(address, ours.asking_as("router")) == {grpc.StatusCode.OK}
    # Its own certificate, for the health check in its container.
    assert await codes(address, ours.asking_as("slm")) == {grpc.StatusCode.OK}


async def test_nobody_else_gets_anything_from_a_worker(serve: Serve, ours: Authority, theirs: Authority) -> None:
    address = await serve(**files_for(ours, tls_client_name="router,slm"))
    strangers = {
        "no TLS": Credentials(),
        "no certificate": Credentials(tls_ca=ours.ca),
        "of a foreign authority": replace(theirs.asking_as("router"), tls_ca=ours.ca),
        "expired": ours.asking_as("expired"),
    }
    for name, credentials in strangers.items():
        assert await codes(address, credentials) == {grpc.StatusCode.UNAVAILABLE}, name
    # A certificate of ours for somebody else opens the port and no call.
    assert await codes(address, ours.asking_as("client")) == {grpc.StatusCode.PERMISSION_DENIED}


async def test_an_expired_certificate_is_refused_for_its_date(serve: Serve, ours: Authority) -> None:
    """The same key and the same authority are taken with another date."""
    address = await serve(**files_for(ours))
    assert await codes(address, ours.asking_as("client")) == {grpc.StatusCode.OK}
    assert await codes(address, ours.asking_as("expired")) == {grpc.StatusCode.UNAVAILABLE}


async def test_a_client_talks_to_the_server_that_it_means(serve: Serve, ours: Authority, theirs: Authority) -> None:
    address = await serve(**files_for(ours))
    assert await codes(address, ours.asking_as("router", tls_name="worker")) == {grpc.StatusCode.OK}
    for wrong in (
        ours.asking_as("router", tls_name="llm"),
        replace(ours.asking_as("router"), tls_ca=theirs.ca),
    ):
        assert await codes(address, wrong) == {grpc.StatusCode.UNAVAILABLE}


async def test_the_system_is_trusted_where_no_authority_is_named(
    serve: Serve, ours: Authority, theirs: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await serve(**ours.served_as("router"))
    for authority, code in ((ours, grpc.StatusCode.OK), (theirs, grpc.StatusCode.UNAVAILABLE)):
        monkeypatch.setenv("SSL_CERT_FILE", authority.ca)
        assert await codes(address, Credentials(tls=True)) == {code}


def _shake_hands(port: int, version: ssl.TLSVersion) -> str | None:
    """Gives the version that a client which knows no other one agrees on with a server; None if it is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python calls the old one insecure, which is the point
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as secured:
                return secured.version()
        except (ssl.SSLError, ConnectionError):
            return None


@contextmanager
def _old_server(ours: Authority) -> Iterator[int]:
    """A server that takes what is too old for ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(ours.file("slm.pem"), ours.file("slm.key"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


async def test_nothing_older_than_tls_1_2_is_spoken(serve: Serve, ours: Authority) -> None:
    port = int((await serve(**ours.served_as("slm"))).rpartition(":")[2])
    versions = (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert [await asyncio.to_thread(_shake_hands, port, each) for each in versions] == [None, "TLSv1.2", "TLSv1.3"]
    with _old_server(ours) as old:  # this client does speak it
        assert await asyncio.to_thread(_shake_hands, old, ssl.TLSVersion.TLSv1_1) == "TLSv1.1"


def _copy(authority: Authority, folder: Path) -> None:
    """Renews all files in a folder, each at once, as those who renew certificates do."""
    for part in ("ca", *PARTS):
        for ending in ("pem", "key"):
            shutil.copy(authority.file(f"{part}.{ending}"), made := folder / f"{part}.{ending}.new")
            made.rename(folder / f"{part}.{ending}")


@asynccontextmanager
async def _stream(channel: Any) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A call that goes on, and what asks it for one more answer."""
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=60)

    async def once_more() -> None:
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert (await call.read()).HasField("list_services_response")

    yield once_more
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


async def test_certificates_are_renewed_under_calls_in_flight(
    serve: Serve, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    _copy(ours, tmp_path)
    live = Authority(tmp_path)
    address = await serve(**files_for(live))
    before, after = ours.asking_as("router"), theirs.asking_as("router")
    async with before.aio_channel(address) as channel, _stream(channel) as once_more:
        await once_more()
        _copy(theirs, tmp_path)
        assert await codes(address, after) == {grpc.StatusCode.OK}
        assert await codes(address, before) == {grpc.StatusCode.UNAVAILABLE}
        await once_more()


@pytest.mark.parametrize("broken", ["slm.pem", "slm.key", "ca.pem"])
@pytest.mark.parametrize("how", ["empty", "gone", "of another"])
async def test_a_renewal_that_does_not_load_changes_nothing(
    serve: Serve, ours: Authority, theirs: Authority, tmp_path: Path, broken: str, how: str
) -> None:
    _copy(ours, tmp_path)
    address = await serve(**files_for(Authority(tmp_path)))
    file = tmp_path / broken
    match how:
        case "empty":
            file.write_text("")
        case "gone":
            file.unlink()
        case _:  # half of a pair, or what is no certificate
            shutil.copy(theirs.file("slm.key" if broken == "ca.pem" else broken), file)
    with capture_logs() as logs:
        for _ in range(2):
            assert await codes(address, ours.asking_as("router")) == {grpc.StatusCode.OK}
    told = [line for line in logs if line["log_level"] == "error"]
    assert len(told) == 1, "once for a change"
    assert told[0]["error"].startswith("--tls-")
    assert str(tmp_path) not in str(told)
    _copy(theirs, tmp_path)
    assert await codes(address, theirs.asking_as("router")) == {grpc.StatusCode.OK}


def _with_passphrase(ours: Authority, folder: Path) -> str:
    made = str(folder / "secret.key")
    command = ["openssl", "ec", "-in", ours.file("slm.key"), "-aes256", "-passout", "pass:secret", "-out", made]
    subprocess.run(command, check=True, capture_output=True)
    return made


async def test_bad_files_stop_the_start_by_the_flag(ours: Authority, tmp_path: Path) -> None:
    """Before a model is looked for, and without a word of where they are and what they hold."""
    (garbage := tmp_path / "garbage.pem").write_text(
        "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n"
    )
    cert, key, gone = ours.file("slm.pem"), ours.file("slm.key"), str(tmp_path / "gone.pem")
    cases: list[tuple[str, dict[str, str]]] = [
        ("--tls-cert", {"tls_key": key}),
        ("--tls-key", {"tls_cert": cert}),
        ("--tls-cert", {"tls_cert": gone, "tls_key": key}),
        ("--tls-cert", {"tls_cert": str(garbage), "tls_key": key}),
        ("--tls-cert", {"tls_cert": str(tmp_path), "tls_key": key}),
        ("--tls-key", {"tls_cert": cert, "tls_key": gone}),
        ("--tls-key", {"tls_cert": cert, "tls_key": str(garbage)}),
        ("--tls-key", {"tls_cert": cert, "tls_key": ours.file("llm.key")}),
        ("--tls-key", {"tls_cert": cert, "tls_key": _with_passphrase(ours, tmp_path)}),
        ("--tls-client-ca", {"tls_cert": cert, "tls_key": key, "tls_client_ca": str(garbage)}),
        ("--tls-client-ca", {"tls_cert": cert, "tls_key": key, "tls_client_ca": key}),
        ("--tls-client-ca", {"tls_client_ca": ours.ca}),
        ("--tls-client-name", {"tls_cert": cert, "tls_key": key, "tls_client_name": "router"}),
        ("--tls-client-name", {"tls_cert": cert, "tls_key": key, "tls_client_ca": ours.ca, "tls_client_name": " ,"}),
    ]
    role = Role("slm", common_pb2.MODEL_SLM, WorkerSettings)
    for flag, settings in cases:
        made = WorkerSettings(model="no-such-model", listen="127.0.0.1:0", **settings)
        with pytest.raises(RstitchError) as refused:
            await start(role, made, lambda error: None)
        error = refused.value
        assert (error.field, bool(error.remedy)) == (flag, True), settings
        assert not any(word in str(error) for word in (str(tmp_path), str(ours.folder), "hunter2", "secret"))


async def test_bad_files_of_a_client_are_named(ours: Authority, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pem")
    for field, make in (
        ("tls_ca", lambda: Credentials(tls_ca=gone).channel("127.0.0.1:1")),
        ("tls_cert", lambda: Credentials(tls_cert=ours.file("client.pem"))),
        ("tls_key", lambda: Credentials(tls_ca=ours.ca, tls_cert=ours.file("client.pem")).channel("127.0.0.1:1")),
        ("api_key_file", lambda: Credentials(api_key_file=gone).channel("127.0.0.1:1")),
        ("api_key_file", lambda: Credentials(api_key="a", api_key_file=ours.ca).channel("127.0.0.1:1")),
        ("api_key", lambda: Credentials(api_key="rs-hunter2\nx").channel("127.0.0.1:1")),
    ):
        with pytest.raises(RstitchError) as refused:
            make()
        assert refused.value.field == field
        assert "hunter2" not in str(refused.value)
        assert str(tmp_path) not in str(refused.value)


def test_a_key_shows_nowhere() -> None:
    assert "hunter2" not in repr(Credentials(api_key="rs-hunter2"))
