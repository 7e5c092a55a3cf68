"""The whole system with certificates on every wire: processes as `rstitch certs` and the documents have them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from evals.algorithm.reference import Threshold as Rule
from rstitch.cli.app import app
from rstitch.client import AsyncClient, Client, Threshold, Unavailable
from rstitch.credentials import Credentials
from rstitch.local.stack import LocalStack, RouterOptions, WorkerOptions
from rstitch.v1 import worker_pb2, worker_pb2_grpc
from tests.support.certificates import Authority
from tests.support.pairs import save_model
from tests.support.redis_process import RedisProcess
from tests.support.served import SMALL, Pair, expected, written
from tests.support.tls_proxy import TlsProxy

ACL = Path(__file__).parents[2] / "deploy/redis-users.acl"
PROMPT = [7, 8, 9, 10, 11]


@dataclass
class Secured:
    """What runs, the pair that it serves, and the proxy in front of its Redis."""

    stack: LocalStack
    pair: Pair
    proxy: TlsProxy


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    pair = Pair(save_model(folder / "slm", "llama", 1), save_model(folder / "llm", "qwen2", 2), "float64")
    (folder / "password").write_text("of-redis")
    acl = ACL.read_text().replace("PASSWORD_SHA256", hashlib.sha256(b"of-redis").hexdigest())
    (folder / "users.acl").write_text(acl)
    redis = RedisProcess(folder, "--aclfile", str(folder / "users.acl"))
    redis.start()

    def flags(part: str, prefix: str = "--tls") -> list[str]:
        return [f"{prefix}-cert", ours.file(f"{part}.pem"), f"{prefix}-key", ours.file(f"{part}.key")]

    def worker(role: str, model: Path) -> WorkerOptions:
        asked = ["--tls-client-ca", ours.ca, "--tls-client-name", f"router,{role}"]
        return WorkerOptions(str(model), dtype="float64", args=[*SMALL, *flags(role), *asked])

    router = [*flags("router"), "--tls-client-ca", ours.ca]
    router += ["--worker-tls-ca", ours.ca, *flags("router", "--worker-tls"), "--worker-tls-name", "worker"]
    router += ["--redis-ca", ours.ca, "--redis-cert", ours.file("router.pem"), "--redis-key", ours.file("router.key")]
    router += ["--redis-password-file", str(folder / "password")]
    with TlsProxy(f"127.0.0.1:{redis.port}", ours) as proxy:
        stack = LocalStack(
            worker("slm", pair.slm_folder),
            worker("llm", pair.llm_folder),
            RouterOptions(args=router),
            redis_url=f"rediss://rstitch@localhost:{proxy.port}/0",
            credentials=ours.asking_as("router"),
        )
        with stack:
            yield Secured(stack, pair, proxy)
    redis.stop()


@pytest.fixture
def rstitch(secured: Secured, ours: Authority, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "200")
    access = ["--tls-ca", ours.ca, "--tls-cert", ours.file("client.pem"), "--tls-key", ours.file("client.key")]

    def run(*args: str, access: list[str] = access) -> Any:
        return CliRunner().invoke(app, [*args, *access], env={"RSTITCH_ROUTER": secured.stack.router_address})

    return run


async def test_a_whole_answer_comes_through_as_the_reference_has_it(secured: Secured, ours: Authority) -> None:
    reference = expected(secured.pair.stitched(PROMPT, Rule(0.3, None, "entropy", 0), 60).written)
    address = secured.stack.router_address
    async with AsyncClient(address, credentials=ours.asking_as("client")) as client:
        answer = await client.answer(tokens=PROMPT, policy=Threshold(0.3), max_new_tokens=60)
        kept = await client.trajectory(answer.session_id)
    assert written(answer) == reference
    assert len({author for _, author in written(answer)}) == 2
    with Client(address, credentials=ours.asking_as("client")) as client:
        again = client.answer(tokens=PROMPT, policy=Threshold(0.3), max_new_tokens=60)
    assert written(again) == reference
    assert [token for segment in kept.segments for token in segment.tokens] == PROMPT + list(answer.tokens)
    assert secured.proxy.num_connections > 0


async def test_strangers_get_nothing_from_any_port(secured: Secured, ours: Authority, theirs: Authority) -> None:
    strangers = [Credentials(), Credentials(tls_ca=ours.ca), replace(theirs.asking_as("client"), tls_ca=ours.ca)]
    for credentials in strangers:
        async with AsyncClient(secured.stack.router_address, credentials=credentials, reconnect_s=0) as client:
            with pytest.raises(Unavailable):
                await client.status()
            with pytest.raises(Unavailable):
                await client.answer("hello")
        for address in secured.stack.worker_addresses:
            async with credentials.aio_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest(), timeout=10)
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    # A client of the router is none of the workers'.
    for address in secured.stack.worker_addresses:
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


def test_health_of_a_container_shows_the_certificate_of_its_service(
    secured: Secured, ours: Authority, rstitch: Callable[..., Any]
) -> None:
    """As the health checks of compose.tls.yaml do."""
    address = secured.stack.worker_addresses[0]
    own = ["--tls-ca", ours.ca, "--tls-cert", ours.file("slm.pem"), "--tls-key", ours.file("slm.key")]
    done = rstitch("health", "--address", address, access=own)
    assert (done.exit_code, done.stdout.strip()) == (0, "SERVING")
    assert rstitch("health", "--address", address).exit_code == 1, "a client is not the router"


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
