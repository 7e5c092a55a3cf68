"""Redis over TLS, as a user that may do what the router does and nothing else."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from router_svc.access.key_store import KeyStore
from router_svc.access.quotas import Quotas
from router_svc.trajectory import keys
from router_svc.trajectory.head_store import HeadStore
from rstitch.client.aio import AsyncClient
from rstitch.credentials import Credentials
from rstitch.errors import ResourceExhausted, RstitchError
from rstitch.service.caller import Limits
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from tests.support.all_calls import all_that_a_router_does
from tests.support.certificates import Authority
from tests.support.keys import make
from tests.support.redis_cluster import ClusterProcesses
from tests.support.redis_process import RedisProcess
from tests.support.tls_proxy import TlsProxy
from tests.support.toy_stack import Stack

ACL = Path(__file__).parents[2] / "deploy/redis-users.acl"
# Not the router's: to log in, and to look whether it is there.
NOT_ASKED = {"auth", "ping"}
# What Redis 6 does not know; where it is refused, the client goes on.
NOT_HERE = {"client"}
# Asked of a cluster only: where slots are and what commands there are, and of one that moves a slot.
OF_A_CLUSTER = {"cluster", "command", "asking"}


@dataclass
class Guarded:
    """A Redis with the ACL of `deploy/`, behind TLS."""

    process: RedisProcess
    tls_port: int
    ours: Authority
    password_file: Path

    def settings(self, **changes: str) -> dict[str, str]:
        """The router's flags for it."""
        asked = {
            "redis": f"rediss://rstitch@localhost:{self.tls_port}/1",
            "redis_ca": self.ours.ca,
            "redis_cert": self.ours.file("router.pem"),
            "redis_key": self.ours.file("router.key"),
            "redis_password_file": str(self.password_file),
        }
        return asked | changes

    def link(self, **changes: str) -> RedisLink:
        return RedisLink(self.address(**changes), 0)

    def address(self, **changes: str) -> RedisAddress:
        found = {"redis_password_file": str(self.password_file)} | self.settings(**changes)
        url = found.pop("redis")
        return RedisAddress(url, **{name.removeprefix("redis_"): value for name, value in found.items()})

    def admin(self) -> Redis:
        return Redis(port=self.process.port, db=1, username="admin", password="admin", decode_responses=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "password").write_text("s3cret-of-redis\n")
    acl = ACL.read_text().replace("PASSWORD_SHA256", hashlib.sha256(b"s3cret-of-redis").hexdigest())
    (folder / "users.acl").write_text(acl + "user admin on >admin ~* &* +@all\n")
    process = RedisProcess(folder, "--aclfile", str(folder / "users.acl"))
    process.start()
    with TlsProxy(f"127.0.0.1:{process.port}", ours) as proxy:
        yield Guarded(process, proxy.port, ours, folder / "password")
    process.stop()


@pytest.fixture
async def guarded(running: Guarded) -> Guarded:
    async with running.admin() as admin:
        await admin.flushall()
        await admin.script_flush()
        await admin.config_resetstat()
    return running


@pytest.fixture
async def stack(guarded: Guarded) -> AsyncIterator[Stack]:
    made = Stack("")
    await made.slm.start()
    await made.llm.start()
    yield made
    await made.close()


def _allowed() -> set[str]:
    return {name.partition("|")[0] for name in re.findall(r" \+([a-z|]+)", ACL.read_text())}


async def test_the_whole_router_works_as_that_user_and_needs_all_of_it(guarded: Guarded, stack: Stack) -> None:
    shown, spent = make(limits=Limits(1000, 100_000, 100_000, 100, 1000)), make(limits=Limits(1))
    store, link = KeyStore(guarded.address(), patience_s=1), guarded.link()
    await store.change(lambda kept: kept.update({each.key.id: each.key for each in (shown, spent)}))
    await store.close()
    async with guarded.admin() as admin:  # a head as an earlier release put it
        await admin.zadd(keys.OLD_HEADS, {"old@1": 1})
        await admin.hset(f"{keys.OLD_HEAD_PREFIX}old@1", "data", "x")
    heads = HeadStore(guarded.address(), patience_s=1)
    assert await heads.delete("old") == "OK"
    await heads.close()
    router = await stack.router(**guarded.settings(), keys="redis", redis_wait="1:1")
    async with AsyncClient(f"127.0.0.1:{router.port}", credentials=Credentials(api_key=shown.secret)) as client:
        await client.wait_ready(10)
        await all_that_a_router_does(client)
    async with AsyncClient(f"127.0.0.1:{router.port}", credentials=Credentials(api_key=spent.secret)) as client:
        await client.answer(text="7", max_new_tokens=2)
        with pytest.raises(ResourceExhausted):
            await client.answer(text="7", max_new_tokens=2)
    await Quotas(link, "", lease_s=1, ttl_s=60).use(shown.key.caller())
    await link.close()
    async with guarded.admin() as admin:
        used = {name.removeprefix("cmdstat_") for name in await admin.info("commandstats")}
        told = await admin.acl_log()
    assert used - _allowed() <= {"info", "config", "flushall", "acl", "hello", "select"}, "the admin's"
    assert _allowed() - used <= NOT_ASKED | NOT_HERE | OF_A_CLUSTER
    assert [entry for entry in told if entry["username"] == "rstitch"] == []


async def test_the_whole_router_works_as_that_user_on_a_cluster(
    ours: Authority, stack: Stack, running: Guarded, tmp_path: Path
) -> None:
    """Its one node says that it is where TLS is spoken."""
    acl = ACL.read_text().replace("PASSWORD_SHA256", hashlib.sha256(b"s3cret-of-redis").hexdigest())
    (tmp_path / "users.acl").write_text(acl + "user admin on >admin ~* &* +@all\n")
    guarded_by = ("--aclfile", str(tmp_path / "users.acl"))
    cluster = ClusterProcesses(tmp_path, num_primaries=1, arguments=guarded_by, login=("admin", "admin"))
    (node,) = cluster.primaries
    with TlsProxy(f"127.0.0.1:{node.port}", ours) as proxy:
        node.add_arguments("--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(proxy.port))
        with cluster:
            url = f"rediss+cluster://rstitch@localhost:{proxy.port}"
            shown = make(limits=Limits(1000, 100_000, 100_000, 100, 1000))
            store = KeyStore(running.address(redis=url), patience_s=1)
            await store.change(lambda kept: kept.update({shown.key.id: shown.key}))
            await store.close()
            router = await stack.router(**running.settings(redis=url), keys="redis", redis_wait="1:1")
            credentials = Credentials(api_key=shown.secret)
            async with AsyncClient(f"127.0.0.1:{router.port}", credentials=credentials) as client:
                await client.wait_ready(10)
                await all_that_a_router_does(client)
            async with Redis(port=node.port, username="admin", password="admin") as admin:
                told = await admin.acl_log()
            await stack.close()
    assert proxy.num_connections > 3
    assert [entry for entry in told if entry["username"] == "rstitch"] == []


REFUSED = """
FLUSHALL, FLUSHDB, CONFIG GET *, CONFIG SET dir /tmp, KEYS *, SCAN 0, GET foreign, DUMP rstitch:x, INFO,
SET foreign 1, DEL foreign, HGETALL foreign, HSET rstitch 1 1, XADD foreign * a 1, ZADD xrstitch:a 1 a, LATENCY RESET,
ACL LIST, ACL WHOAMI, DEBUG SLEEP 0, SHUTDOWN NOSAVE, SAVE, REPLICAOF NO ONE, MODULE LIST, MONITOR, SWAPDB 0 1,
SCRIPT FLUSH, CLIENT KILL TYPE normal, CLIENT LIST, PUBLISH rstitch:a b, SUBSCRIBE rstitch:a, RENAME rstitch:a a,
MIGRATE h 1 rstitch:a 0 1
"""


@pytest.mark.parametrize("command", [command.strip() for command in REFUSED.split(",")])
async def test_that_user_may_do_nothing_else(guarded: Guarded, command: str) -> None:
    link = guarded.link()
    with pytest.raises(NoPermissionError):
        await link.redis.execute_command(*command.split(" "))
    await link.close()


async def test_a_script_of_that_user_may_do_nothing_else(guarded: Guarded) -> None:
    link = guarded.link()
    for call in ("'GET', 'foreign'", "'FLUSHALL'", "'SET', 'foreign', '1'", "'KEYS', '*'"):
        error = await link.redis.eval(f"return redis.pcall({call}).err", 0)
        assert b"permission" in error or b"can't" in error or b"NOPERM" in error, (call, error)
    async with guarded.admin() as admin:
        assert await admin.dbsize() == 0
    await link.close()


async def _fails(link: RedisLink) -> RstitchError:
    with pytest.raises(RstitchError) as refused:
        await link.command("PING")
    await link.close()
    return refused.value


async def test_redis_is_the_one_that_is_meant_and_knows_the_router(
    guarded: Guarded, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    link = guarded.link()
    assert await link.command("PING")
    await link.close()
    (wrong := tmp_path / "wrong").write_text("other")
    port = guarded.tls_port
    for changes in (
        {"redis_ca": theirs.ca},
        {"redis_cert": theirs.file("router.pem"), "redis_key": theirs.file("router.key")},
        {"redis_cert": ours.file("expired.pem"), "redis_key": ours.file("expired.key")},
        {"redis_cert": "", "redis_key": ""},
        {"redis": f"redis://rstitch@localhost:{port}/0", "redis_ca": "", "redis_cert": "", "redis_key": ""},
        {"redis_password_file": str(wrong)},
        {"redis": f"rediss://localhost:{port}/0", "redis_password_file": ""},
    ):
        error = await _fails(guarded.link(**changes))
        assert error.reason in ("REDIS_UNAVAILABLE", "REDIS_REFUSED"), changes
        assert "s3cret" not in str(error)
    # Its certificate is for other names than this one.
    with TlsProxy(f"127.0.0.1:{guarded.process.port}", ours, "client") as unnamed:
        error = await _fails(guarded.link(redis=f"rediss://rstitch@localhost:{unnamed.port}/0"))
        assert error.reason == "REDIS_UNAVAILABLE"


async def test_the_system_does_not_vouch_for_redis_beside_the_authority(
    guarded: Guarded, ours: Authority, theirs: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ours.ca)
    link = guarded.link(redis_ca="")
    assert await link.command("PING")
    await link.close()
    assert (await _fails(guarded.link(redis_ca=theirs.ca))).reason == "REDIS_UNAVAILABLE"


async def test_a_password_and_a_certificate_are_renewed(
    guarded: Guarded, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    password, cert, key = tmp_path / "password", tmp_path / "cert", tmp_path / "key"
    shutil.copy(guarded.password_file, password)
    shutil.copy(theirs.file("router.pem"), cert)
    shutil.copy(theirs.file("router.key"), key)
    link = guarded.link(redis_password_file=str(password), redis_cert=str(cert), redis_key=str(key))
    with pytest.raises(RstitchError):
        await link.command("PING")
    shutil.copy(ours.file("router.pem"), cert)
    shutil.copy(ours.file("router.key"), key)
    assert await link.command("PING")
    async with guarded.admin() as admin:
        await admin.execute_command("ACL", "SETUSER", "rstitch", ">another")
        await admin.execute_command("ACL", "SETUSER", "rstitch", "<s3cret-of-redis")
        password.write_text("another")
        try:
            await admin.client_kill_filter(_type="normal", skipme=True)
            retried = guarded.link(redis_password_file=str(password))
            assert await retried.command("PING")
            await retried.close()
            await link.redis.connection_pool.disconnect()
            assert await link.command("PING")
        finally:
            await admin.execute_command("ACL", "SETUSER", "rstitch", ">s3cret-of-redis", "<another")
    await link.close()


def test_what_cannot_be_is_refused_by_its_flag(ours: Authority, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    (password := tmp_path / "password").write_text("hunter2")
    secure = "rediss://rstitch@localhost:1/0"
    cases: list[tuple[str, dict[str, str]]] = [
        ("--redis", {"url": "redis://:hunter2/@x@h:1"}),
        ("--redis", {"url": "redis://:hunter2@h:1/0?foo=bar"}),
        ("--redis", {"url": "redis://:hunter2@h:port/0"}),
        ("--redis", {"url": "redis://:hunter2@[h:1/0"}),
        ("--redis", {"url": "redis://r@[h:1/0", "password_file": str(password)}),
        ("--redis-ca", {"url": "redis://localhost:1/0", "ca": ours.ca}),
        ("--redis-ca", {"url": secure, "ca": gone}),
        ("--redis-key", {"url": secure, "cert": ours.file("router.pem")}),
        ("--redis-key", {"url": secure, "cert": ours.file("router.pem"), "key": ours.file("client.key")}),
        ("--redis-password-file", {"url": secure, "password_file": gone}),
        ("--redis-password-file", {"url": "redis://:hunter2@h:1/0", "password_file": str(password)}),
    ]
    for flag, values in cases:
        with pytest.raises(RstitchError) as refused:
            RedisLink(RedisAddress(**values), 0)
        assert (refused.value.field, bool(refused.value.remedy)) == (flag, True), values
        assert not any(word in str(refused.value) for word in ("hunter2", str(tmp_path)))
