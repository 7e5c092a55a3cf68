"""One server, Sentinels and a cluster look alike to whoever has a link; real servers, and real crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import structlog

from rstitch.errors import RstitchError
from storage.confirming import Confirming
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from storage.scripts import ClusterScript
from tests.support.redis_cluster import ClusterProcesses
from tests.support.redis_sentinel import SentinelProcesses

COUNT = "redis.call('RPUSH', KEYS[1], ARGV[1]); return redis.call('LLEN', KEYS[1])"


async def counted(link: RedisLink, script: Any, key: str, value: object) -> int:
    """Calls a script as those who call it all the time do."""

    async def call() -> int:
        if not isinstance(script, ClusterScript):
            return int(await script([key], [value]))
        (reply,) = await script.many([([key], [value])])
        if isinstance(reply, Exception):
            raise reply
        return int(reply)

    return await link.call(call)


async def test_commands_steps_and_pages(link: RedisLink) -> None:
    assert await link.command("GET", "a") is None
    await link.together(*(("HSET", f"{number}{{t}}", "a", number) for number in range(20)))
    found = await link.together(*(("HGETALL", f"{number}{{t}}") for number in (3, 19, 21)))
    assert found == [{b"a": b"3"}, {b"a": b"19"}, {}]
    await link.command("XADD", "stream{t}", "1-1", "k", "v")
    both = await link.at_once("3{t}", ("HGETALL", "3{t}"), ("XRANGE", "stream{t}", "-", "+"), ("DEL", "3{t}"))
    assert both == [{b"a": b"3"}, [(b"1-1", {b"k": b"v"})], 1]
    await link.together(*(("SET", str(number), number) for number in range(50)))  # in all slots
    found = await link.together(*(("GET", str(number)) for number in range(50)))
    assert found == [str(number).encode() for number in range(50)]


async def test_a_step_is_done_whole_or_not_at_all(link: RedisLink) -> None:
    await link.command("SET", "word{t}", "x")
    with pytest.raises(RstitchError) as refused:
        await link.at_once("word{t}", ("SET", "other{t}", 1), ("NO-COMMAND", "word{t}"))
    assert refused.value.reason == "REDIS_REFUSED"
    assert await link.command("GET", "other{t}") is None


async def test_scripts_are_known_after_the_first_call_and_after_they_were_forgotten(link: RedisLink) -> None:
    pooled, own = link.redis.register_script(COUNT), link.script(COUNT)
    for round_ in range(1, 4):
        for number in range(6):
            assert await counted(link, own, f"a{number}", "x") == 2 * round_ - 1
            assert await link.call(lambda number=number: pooled(keys=[f"a{number}"], args=["x"])) == 2 * round_
        await link.call(lambda: link.redis.script_flush())
    await own.close()


async def test_calls_for_one_node_share_a_round_trip(cluster_redis: ClusterProcesses) -> None:
    cluster_redis.flush()
    link = RedisLink(RedisAddress(cluster_redis.url), patience_s=1)
    script = link.script(COUNT)
    assert isinstance(script, ClusterScript)
    keys = [str(number) for number in range(60)]
    nodes: dict[str, list[str]] = {}
    for key in keys:
        nodes.setdefault(await script.node_of(key), []).append(key)
    assert len(nodes) == 3
    for of_node in nodes.values():
        assert await script.many([([key], ["x"]) for key in of_node]) == [1] * len(of_node)
    # One that is wrong harms no other.
    wrong, *others = next(iter(nodes.values()))
    await link.command("SET", wrong, "no list")
    replies = await script.many([([key], ["x"]) for key in (wrong, *others)])
    assert isinstance(replies[0], redis.ResponseError)
    assert replies[1:] == [2] * len(others)
    await link.close()


async def test_a_slot_that_has_moved_is_found(cluster_redis: ClusterProcesses) -> None:
    """Its keys are on another node from one call to the next; commands, steps and scripts find them there."""
    cluster_redis.flush()
    link = RedisLink(RedisAddress(cluster_redis.url), patience_s=5)
    script = link.script(COUNT)
    assert isinstance(script, ClusterScript)
    assert await counted(link, script, "list{t}", "x") == 1
    there = int((await script.node_of("list{t}")).rpartition(":")[2])
    other = next(node.port for node in cluster_redis.primaries if node.port != there)
    for source, target in ((there, other), (other, there)):
        _move_slot(cluster_redis, "list{t}", source, target)
        assert await counted(link, script, "list{t}", "x") > 1
        assert int((await script.node_of("list{t}")).rpartition(":")[2]) == target
        _move_slot(cluster_redis, "list{t}", target, source)
        length, rest = await link.at_once("list{t}", ("LLEN", "list{t}"), ("LRANGE", "list{t}", 0, 0))
        assert (length > 1, rest) == (True, [b"x"])
        assert await link.command("LLEN", "list{t}") == length
        _move_slot(cluster_redis, "list{t}", source, target)
    await link.close()


def _move_slot(cluster: ClusterProcesses, key: str, source: int, target: int) -> None:
    clients = {node.port: redis.Redis(port=node.port) for node in cluster.primaries}
    slot = clients[source].execute_command("CLUSTER", "KEYSLOT", key)
    ids = {port: client.execute_command("CLUSTER", "MYID") for port, client in clients.items()}
    clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    clients[source].execute_command("MIGRATE", "127.0.0.1", target, key, 0, 1000)
    for port in (target, source, *(port for port in clients if port not in (source, target))):
        clients[port].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    for client in clients.values():
        client.close()


@pytest.fixture
def whole_again(sentinel_redis: SentinelProcesses) -> Iterator[SentinelProcesses]:
    """Whoever kills the primary leaves two servers to the next."""
    yield sentinel_redis
    for server in sentinel_redis.dead:
        sentinel_redis.bring_back(server)


async def test_a_primary_that_was_demoted_is_left(whole_again: SentinelProcesses) -> None:
    """It still answers, as a replica: a script meets that in the midst of its work."""
    processes = whole_again
    link = RedisLink(RedisAddress(processes.url), patience_s=20)
    own, pooled = link.script(COUNT), link.redis.register_script(COUNT)
    before = processes.primary
    await counted(link, own, "list", 0)
    await link.call(lambda: pooled(keys=["other"], args=[1]))
    processes.fail_over()
    assert processes.primary is not before
    await counted(link, own, "list", 1)
    await link.call(lambda: pooled(keys=["other"], args=[2]))
    with redis.Redis(port=processes.primary.port) as client:
        assert client.lrange("other", 0, -1)[-1] == b"2"
        assert client.lrange("list", 0, -1)[-1] == b"1"
    await own.close()
    await link.close()


async def test_when_the_primary_dies_calls_wait_for_the_next_one(whole_again: SentinelProcesses) -> None:
    """With every kind of connection at once, in use and idle; and all is there that the replica had confirmed."""
    processes = whole_again
    with redis.Redis(port=processes.primary.port) as client:
        client.flushall()
    link, confirming = RedisLink(RedisAddress(processes.url), patience_s=20), Confirming(1, 1000)
    own, pooled = link.script(COUNT, confirming), link.redis.register_script(COUNT)
    written = 0
    with structlog.testing.capture_logs() as logs:
        for number in range(20):
            written = await counted(link, own, "list", number)
        assert confirming.num_unconfirmed == 0
        dead = processes.kill_primary()
        more = [counted(link, own, "list", 20), link.command("LRANGE", "list", 0, 19)]
        more += [link.call(lambda: pooled(keys=["other"], args=[1])), link.command("SET", "a", 1)]
        _, found, *_ = await asyncio.gather(*more)
    assert processes.primary is not dead
    assert written == 20
    assert found == [str(number).encode() for number in range(20)]
    assert confirming.num_unconfirmed > 0, "nobody is left who could confirm"
    events = [line["event"] for line in logs]
    # The next one may be read before it takes what is written.
    assert 1 <= events.count("waiting for redis") == events.count("redis is back") <= 2
    assert events.count("replicas do not confirm what is written") == 1
    await own.close()
    await link.close()
