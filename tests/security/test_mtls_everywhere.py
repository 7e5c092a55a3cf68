"""The whole system with certificates on every wire, started as compose.tls.yaml starts it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from evals.algorithm.reference import Threshold as Rule
from rstitch.cli.app import app
from rstitch.client import AsyncClient, Client, Threshold, Unavailable
from rstitch.credentials import Credentials
from rstitch.errors import RstitchError
from rstitch.local.readiness import is_serving
from rstitch.v1 import worker_pb2, worker_pb2_grpc
from tests.support.certificates import Authority
from tests.support.composed import NAMES, Composed, composed
from tests.support.pairs import save_model
from tests.support.scraped import get, parsed, samples, tls_context
from tests.support.served import Pair, expected, written

PROMPT = [7, 8, 9, 10, 11]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Composed]:
    folder = tmp_path_factory.mktemp("secured")
    pair = Pair(save_model(folder / "slm", "llama", 1), save_model(folder / "llm", "qwen2", 2), "float64")
    with composed(folder, ours, pair) as running:
        yield running


@pytest.fixture
def rstitch(secured: Composed, ours: Authority, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "200")
    access = ["--tls-ca", ours.ca, "--tls-cert", ours.file("client.pem"), "--tls-key", ours.file("client.key")]
    known = {"RSTITCH_ROUTER": secured.router, "RSTITCH_API_KEY": secured.credentials.api_key}

    def run(*args: str, access: list[str] = access) -> Any:
        return CliRunner().invoke(app, [*args, *access], env=known)

    return run


async def test_a_whole_answer_comes_through_as_the_reference_has_it(secured: Composed) -> None:
    reference = expected(secured.pair.stitched(PROMPT, Rule(0.3, None, "entropy", 0), 60).written)
    address = secured.router
    async with AsyncClient(address, credentials=secured.credentials) as client:
        answer = await client.answer(tokens=PROMPT, policy=Threshold(0.3), max_new_tokens=60)
        kept = await client.trajectory(answer.session_id)
    assert written(answer) == reference
    assert len({author for _, author in written(answer)}) == 2
    with Client(address, credentials=secured.credentials) as client:
        again = client.answer(tokens=PROMPT, policy=Threshold(0.3), max_new_tokens=60)
    assert written(again) == reference
    assert [token for segment in kept.segments for token in segment.tokens] == PROMPT + list(answer.tokens)
    assert secured.proxy.num_connections > 0


async def test_strangers_get_nothing_from_any_port(secured: Composed, ours: Authority, theirs: Authority) -> None:
    strangers = [Credentials(), Credentials(tls_ca=ours.ca), replace(theirs.asking_as("client"), tls_ca=ours.ca)]
    for credentials in strangers:
        async with AsyncClient(secured.router, credentials=credentials, reconnect_s=0) as client:
            with pytest.raises(Unavailable):
                await client.status()
            with pytest.raises(Unavailable):
                await client.answer("hello")
        for address in secured.workers:
            async with credentials.aio_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest(), timeout=10)
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    # A certificate without a key is heard, and opens nothing.
    async with AsyncClient(secured.router, credentials=ours.asking_as("client"), reconnect_s=0) as client:
        with pytest.raises(RstitchError) as keyless:
            await client.answer("hello")
    assert keyless.value.code is grpc.StatusCode.UNAUTHENTICATED
    # A client of the router is none of the workers'.
    for address in secured.workers:
        async with ours.asking_as("client").aio_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest(), timeout=10)
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_the_command_line_works_with_its_certificate(rstitch: Callable[..., Any]) -> None:
    done = rstitch("ask", "1 2 3", "--raw", "--max-new-tokens", "8", "--session", "mine", "--json")
    assert done.exit_code == 0, done.output
    assert sum(len(json.loads(line).get("tokens", ())) for line in done.stdout.splitlines()) == 8
    assert "mine" in rstitch("trajectory", "ls").stdout
    assert rstitch("trajectory", "label", "mine", "right").exit_code == 0
    assert rstitch("trajectory", "rm", "mine").exit_code == 0
    assert rstitch("profiles", "put", "p", "threshold:tau=0.3").exit_code == 0
    assert "p" in rstitch("profiles", "ls").stdout
    assert rstitch("heads", "ls").exit_code == 0
    assert rstitch("health").exit_code == 0


def test_health_checks_of_the_containers_pass(secured: Composed) -> None:
    """They show the certificate of the service that they are of."""
    with ThreadPoolExecutor() as pool:
        for name, done in zip(NAMES, pool.map(secured.health, NAMES), strict=True):
            assert (done.returncode, done.stdout.strip()) == (0, "SERVING"), (name, done.stderr)


def test_a_worker_is_asked_by_its_router_and_itself(secured: Composed, ours: Authority) -> None:
    slm = secured.workers[0]
    for part, serving in (("router", True), ("slm", True), ("llm", False), ("client", False)):
        assert is_serving(slm, timeout_s=10, credentials=ours.asking_as(part)) is serving, part


@pytest.mark.parametrize(
    "command", [("ask", "hi"), ("trajectory", "ls"), ("profiles", "ls"), ("heads", "ls"), ("health",)]
)
def test_the_command_line_says_what_is_missing(
    rstitch: Callable[..., Any], ours: Authority, theirs: Authority, command: tuple[str, ...]
) -> None:
    arguments = (*command, "--timeout", "0.5") if command[0] == "ask" else command
    assert "tls_ca" in rstitch(*arguments, access=[]).stderr
    other = rstitch(*command, access=["--tls-ca", theirs.ca])
    assert (other.exit_code, "TLS" in other.stderr) == (1, True)
    half = rstitch(*command, access=["--tls-cert", ours.file("client.pem")])
    assert (half.exit_code, half.stderr.startswith("error: --tls-cert: ")) == (2, True)


def test_metrics_are_for_who_has_a_certificate_and_that_of_prometheus_opens_nothing_else(
    secured: Composed, ours: Authority, theirs: Authority
) -> None:
    shown = tls_context(ours.asking_as("prometheus"))
    unknown = (Credentials(tls_ca=ours.ca), replace(theirs.asking_as("client"), tls_ca=ours.ca))
    strangers = [tls_context(credentials) for credentials in unknown]
    for name, address in secured.metrics.items():
        url = f"https://{address}/metrics"
        families = parsed(get(url, shown)[0])
        (target,) = samples(families, "target_info")
        assert dict(target)["service_name"] == f"rstitch-{name}"
        ends = samples(families, "rstitch_certificate_expiry_seconds")
        parts = {"tls_cert", "tls_client_ca"}
        parts |= {"worker_tls_cert", "worker_tls_ca", "redis_cert", "redis_ca"} if name == "router" else set()
        assert {dict(labels)["rstitch_certificate"] for labels in ends} == parts
        assert all(0 < end - time.time() < 2 * 86_400 + 60 for end in ends.values())
        for stranger in strangers:
            with pytest.raises(OSError):  # noqa: PT011 - the library says it in several ways
                get(url, stranger)
    for address in secured.workers:
        with ours.asking_as("prometheus").channel(address) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest(), timeout=10)
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
