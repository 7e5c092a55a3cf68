"""Heads in the store: every router finds them, versions stay what they are, and what cannot be asked is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from evals.algorithm.reference import Answer, stitch
from router_svc.trajectory import keys
from router_svc.trajectory.head_store import Found, HeadStore
from rstitch.client import AsyncClient, InvalidArgument, Learned, NotFound
from rstitch.service.head import MAX_BYTES, Head
from rstitch.v1 import router_pb2
from storage.redis_address import RedisAddress
from tests.support.asking import Reading, ask_for, refused, take, until
from tests.support.heads import put, random_head
from tests.support.naive import check, rule_of, told
from tests.support.toy import STOP, ToyModel
from tests.support.toy_stack import Stack

PROMPT = [7, 8, 9]
SLM, LLM = ToyModel(31, stop_every=0), ToyModel(32, stop_every=0)
A, B, C = (random_head(1, seed=seed, tau=0.2) for seed in (4, 5, 6))
WIDE = random_head(2)


@pytest.fixture
async def stub(stack: Stack) -> Any:
    stack.slm.model, stack.llm.model = SLM, LLM
    return await stack.stub(await stack.router())


async def store(stub: Any, head: Head, name: str = "mine", **fields: Any) -> str:
    full_name = (await stub.StoreHead(router_pb2.StoreHeadRequest(name=name, data=head.data, **fields))).full_name
    assert full_name == f"{name}@{head.version}"
    return str(full_name)


async def activate(stub: Any, name: str = "mine", version: str = "") -> str:
    return str((await stub.ActivateHead(router_pb2.ActivateHeadRequest(name=name, version=version))).full_name)


async def delete(stub: Any, name: str) -> None:
    await stub.DeleteHead(router_pb2.DeleteHeadRequest(name=name))


async def status(stub: Any) -> dict[str, Any]:
    return {f"{h.name}@{h.version}": h for h in (await stub.GetStatus(router_pb2.GetStatusRequest())).heads}


async def in_service(stub: Any) -> set[str]:
    return {name for name, head in (await status(stub)).items() if head.active}


def asked(name: str = "mine", num: int = 12, **fields: Any) -> router_pb2.GenerateRequest:
    return ask_for(PROMPT, policy={"learned": {"name": name}}, max_new_tokens=num, **fields)


def reference(head: Head, num: int) -> Answer:
    rule = rule_of({"learned": {"tau": 0.2}}, len(PROMPT), SLM, head=head)
    return stitch(SLM, LLM, PROMPT, rule, max_new_tokens=num, stop_tokens={STOP})


async def asked_by(stub: Any, name: str = "mine") -> str:
    """The head that answers, which is shown by its tokens, too."""
    answer = await take(stub, asked(name))
    assert answer.error is None, answer.error
    full_name = answer.finished.policy.learned.name
    (head,) = (head for head in (A, B, C) if full_name.endswith(f"@{head.version}"))
    check(answer, reference(head, 12))
    return str(full_name)


async def test_all_routers_find_a_head_and_a_change_of_it_at_once(stack: Stack, stub: Any) -> None:
    other = await stack.stub(await stack.router())
    first = await store(stub, A)
    assert await asked_by(other) == first
    second = await store(other, B)
    assert await asked_by(stub) == second
    assert await asked_by(other, first) == first, "a version that was replaced is kept"
    third = await store(stub, C, inactive=True)
    assert await asked_by(other) == second
    assert await activate(other, version=C.version) == third
    assert await asked_by(stub) == third


async def test_rolling_back_twice_returns(stub: Any) -> None:
    first, second = await store(stub, A), await store(stub, B)
    assert await store(stub, B) == second, "the same once more is no change"
    for expected in (first, second, first):
        assert await activate(stub) == expected
        assert await asked_by(stub) == expected


async def test_the_store_goes_before_the_folder(stack: Stack, tmp_path: Path) -> None:
    put(tmp_path, "mine", A)
    put(tmp_path, "broken", A).write_bytes(b"none")
    stub = await stack.stub(await stack.router(heads=str(tmp_path)))
    stack.slm.model, stack.llm.model = SLM, LLM
    in_folder = f"mine@{A.version}"
    await store(stub, B, inactive=True)
    assert await asked_by(stub) == in_folder, "none of the store's is in service"
    stored = await activate(stub, version=B.version)
    assert await asked_by(stub) == stored
    assert await asked_by(stub, in_folder) == in_folder
    listed = await status(stub)
    assert {name: (head.active, head.stored) for name, head in listed.items()} == {
        stored: (True, True), in_folder: (False, False), "broken@": (True, False),
    }  # fmt: skip
    await delete(stub, "mine")
    assert await asked_by(stub) == in_folder


async def test_status_says_what_a_head_is(stub: Any) -> None:
    name = await store(stub, A, description="of two minds")
    (head,) = (await status(stub)).values()
    assert (f"{head.name}@{head.version}", head.tau, head.detail) == (name, 0.2, "")
    assert (head.active, head.stored, head.description, list(head.features)) == (True, True, "of two minds", [])


async def test_status_says_when_a_head_was_put_and_for_how_long(stack: Stack, tmp_path: Path) -> None:
    put(tmp_path, "lying", B)
    stub = await stack.stub(await stack.router(heads=str(tmp_path)))
    before = int(time.time() * 1000)
    stays, goes = await store(stub, A), await store(stub, A, "brief", ttl_s=100)
    after = time.time()
    heads = await status(stub)
    assert before <= heads[stays].updated.ToMilliseconds() <= heads[goes].updated.ToMilliseconds() <= 1000 * after
    assert not heads[stays].HasField("ttl_s")
    assert 0 < heads[goes].ttl_s <= 100
    lying = heads[f"lying@{B.version}"]
    assert not lying.HasField("updated")
    assert not lying.HasField("ttl_s")
    await store(stub, A, ttl_s=9)
    assert heads[stays].updated.ToMilliseconds() <= (found := (await status(stub))[stays]).updated.ToMilliseconds()
    assert 0 < found.ttl_s <= 9


async def test_an_answer_goes_on_with_its_own_version_or_not_at_all(stack: Stack) -> None:
    """Its router is gone and its name stands for another head; then that version, too, is forgotten."""
    stack.slm.model, stack.llm.model = SLM, LLM
    stack.slm.delay_s = stack.llm.delay_s = 0.003
    async with stack.routing() as first:
        await first.ready.wait()
        stub = await stack.stub(first)
        await store(stub, A)
        kept, lost = [await Reading(stub, asked(num=200)).has(9) for _ in range(2)]
        await first.sessions.drain()
        begun = [await kept, await lost]
        assert [answer.error.reason for answer in begun if answer.error] == ["ROUTER_DRAINING"] * 2
    stub = await stack.stub(await stack.router())
    await store(stub, B)
    resumed = [router_pb2.GenerateRequest(session_id=a.session_id, resume_from=a.next) for a in begun]
    answer = await take(stub, resumed[0])
    assert answer.finished.policy.learned.name == f"mine@{A.version}"
    begun[0].tokens += answer.tokens
    begun[0].authors += answer.authors
    assert (begun[0].tokens, begun[0].authors) == told(reference(A, 200))
    await delete(stub, f"mine@{A.version}")
    error = await refused(stub.Generate(resumed[1]))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN")
    assert f"mine@{B.version}" in str(error), "it says which versions there are"


async def test_a_router_that_died_is_followed_by_one_that_finds_the_head(stack: Stack) -> None:
    """For Redis it is dead: its lease runs out. Its answer goes on with its head, and it may write no more of it."""
    stack.slm.model, stack.llm.model = SLM, LLM
    stack.slm.delay_s = stack.llm.delay_s = 0.003
    first, second = await stack.router(), await stack.router()
    own, other = await stack.stub(first), await stack.stub(second)
    await store(own, A)
    reading = await Reading(own, asked(num=300, session_id="s")).has(9)
    await store(own, B)
    first.lease.renew = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    taken = await take(other, router_pb2.GenerateRequest(session_id="s", resume_from=0))
    answer = await reading
    assert answer.error is not None
    assert answer.error.reason == "TAKEN_OVER"
    assert (taken.tokens, taken.authors) == told(reference(A, 300))
    assert await asked_by(other) == f"mine@{B.version}"


async def test_one_for_a_while_is_refused_afterwards_and_its_name_stands_for_the_one_before(
    stub: Any, redis_url: str
) -> None:
    first, second = await store(stub, A), await store(stub, B, ttl_s=100)
    assert await asked_by(stub) == second
    await let_expire(redis_url, second)
    error = await refused(stub.Generate(asked(second)))
    assert (error.reason, error.field) == ("HEAD_UNKNOWN", "policy.learned.name")
    assert first in str(error)
    assert await asked_by(stub) == first
    assert (await refused(stub.ActivateHead(router_pb2.ActivateHeadRequest(name="mine")))).reason == "HEAD_NOT_REPLACED"
    await store(stub, B, inactive=True)
    assert await in_service(stub) == {first}, "it is not in service by being put again"


async def let_expire(redis_url: str, name: str) -> None:
    """The rest of its time passes."""
    async with Redis.from_url(redis_url) as client:
        assert 0 < await client.ttl(keys.head(name)) <= 100
        await client.pexpire(keys.head(name), 1)
        await until(lambda: is_gone(client, name))


async def is_gone(client: Redis, name: str) -> bool:
    return not await client.exists(keys.head(name))


async def test_putting_again_counts_for_how_long(stub: Any, redis_url: str) -> None:
    name = await store(stub, A, ttl_s=100)
    async with Redis.from_url(redis_url) as client:
        assert 0 < await client.ttl(keys.head(name)) <= 100
        await store(stub, A)
        assert await client.ttl(keys.head(name)) == -1


async def test_what_has_expired_leaves_nothing(stub: Any, redis_url: str) -> None:
    await let_expire(redis_url, await store(stub, A, "brief", ttl_s=100))
    assert await status(stub) == {}
    await store(stub, B)
    async with Redis.from_url(redis_url) as client:
        assert await client.zrange(keys.HEADS, 0, -1) == [f"mine@{B.version}".encode()]
        assert not await client.exists(keys.head("brief"))
        await delete(stub, "mine")
        assert not [key async for key in client.scan_iter("*head*")]


async def test_the_last_version_takes_the_name_with_it(stub: Any, redis_url: str) -> None:
    first, second = await store(stub, A, inactive=True), await store(stub, B, inactive=True, ttl_s=100)
    await let_expire(redis_url, second)
    await delete(stub, first)
    async with Redis.from_url(redis_url) as client:
        assert not [key async for key in client.scan_iter("*:head:*")]


async def test_what_is_in_service_is_not_deleted(stub: Any) -> None:
    first, second = await store(stub, A), await store(stub, B)
    error = await refused(stub.DeleteHead(router_pb2.DeleteHeadRequest(name=second)))
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.FAILED_PRECONDITION, "HEAD_ACTIVE", "name")
    await delete(stub, first)
    assert set(await status(stub)) == {second}
    assert (await refused(stub.ActivateHead(router_pb2.ActivateHeadRequest(name="mine")))).reason == "HEAD_NOT_REPLACED"
    await delete(stub, "mine")
    assert await status(stub) == {}
    for name in ("mine", second):
        error = await refused(stub.DeleteHead(router_pb2.DeleteHeadRequest(name=name)))
        assert (error.code, error.reason, error.field) == (grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", "name")
        assert (await refused(stub.Generate(asked(name)))).reason == "HEAD_UNKNOWN"


@pytest.mark.parametrize(
    ("data", "reason"),
    [(WIDE.data, "HEAD_MISFIT"), (b"of another kind", "HEAD_UNREADABLE")],
    ids=["too wide", "no head"],
)
async def test_what_no_answer_could_ask_does_not_come_into_service(
    stub: Any, redis_url: str, data: bytes, reason: str
) -> None:
    """Routers of another pair, or newer ones, may have put it: neither a name nor a rollback brings it here."""
    mine = await store(stub, A)
    put_by_others = ("mine", WIDE.version, data, json.dumps(asdict(WIDE.facts)), "")
    await kept_by_others(redis_url, *put_by_others, active=False)
    for version in (WIDE.version, ""):
        error = await refused(stub.ActivateHead(router_pb2.ActivateHeadRequest(name="mine", version=version)))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
        assert error.field == "version"
        assert await asked_by(stub) == mine
        await kept_by_others(redis_url, *put_by_others, active=True)
        assert await activate(stub, version=A.version) == mine, "the other one is the version before"


async def kept_by_others(redis_url: str, *head: Any, active: bool) -> None:
    other = HeadStore(RedisAddress(redis_url), patience_s=1)
    await other.put(*head, ttl_s=0, active=active)
    await other.close()


@pytest.mark.parametrize("name", ["", "a/b", ".a", "-a", "a b", "mine@", f"mine@{A.version}", "x" * 65])
async def test_what_can_be_no_name_is_refused(stub: Any, name: str) -> None:
    calls = [
        stub.StoreHead(router_pb2.StoreHeadRequest(name=name, data=A.data)),
        stub.ActivateHead(router_pb2.ActivateHeadRequest(name=name)),
    ]
    if A.version not in name:
        calls.append(stub.DeleteHead(router_pb2.DeleteHeadRequest(name=name)))
    for call in calls:
        error = await refused(call)
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "name")
        assert error.remedy


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"data": b"none"}, "data", "HEAD_UNREADABLE"),
        ({"data": b""}, "data", "HEAD_UNREADABLE"),
        ({"data": bytes(MAX_BYTES + 1)}, "data", "HEAD_UNREADABLE"),
        ({"data": WIDE.data}, "data", "HEAD_MISFIT"),
        ({"data": random_head(1, fingerprint="other").data}, "data", "HEAD_MISFIT"),
        ({"data": A.data, "description": "x" * 4097}, "description", "INVALID_FIELD"),
    ],
    ids=["no head", "empty", "too large", "too wide", "another tokenizer", "long description"],
)
async def test_what_no_answer_could_ask_is_refused(stub: Any, fields: dict[str, Any], field: str, reason: str) -> None:
    error = await refused(stub.StoreHead(router_pb2.StoreHeadRequest(name="mine", **fields)))
    assert (error.field, error.reason) == (field, reason)
    assert error.remedy
    assert await status(stub) == {}


async def test_routers_that_put_one_name_at_once_leave_one_state(stack: Stack, stub: Any) -> None:
    """Whoever came last is in service, and whoever came before is what a rollback gives."""
    stubs = [stub, await stack.stub(await stack.router())]
    heads = [random_head(1, seed=seed) for seed in range(12)]
    await asyncio.gather(*(store(s, head) for head, s in zip(heads, itertools.cycle(stubs), strict=False)))
    listed = await status(stub)
    assert set(listed) == {f"mine@{head.version}" for head in heads}
    (last,) = await in_service(stub)
    before = await activate(stub)
    assert before in set(listed) - {last}
    assert await in_service(stubs[1]) == {before}
    assert await activate(stubs[1]) == last


async def test_many_answers_at_once_read_a_new_head_once(
    stack: Stack, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await stack.router()
    other, reads = await stack.stub(router), []
    inner = router.heads._store.read

    async def counted(*arguments: Any) -> bytes | None:
        reads.append(arguments)
        return await inner(*arguments)

    monkeypatch.setattr(router.heads._store, "read", counted)
    await store(stub, A)
    await asyncio.gather(*(asked_by(other) for _ in range(8)))
    await store(stub, A, "same")
    await asked_by(other, "same")
    assert len(reads) == 1


async def test_a_head_that_only_a_newer_router_can_read_is_refused_by_name(stub: Any, redis_url: str) -> None:
    name = await store(stub, A)
    async with Redis.from_url(redis_url) as client:
        await client.hset(keys.head(name), "data", b"of another kind")
        facts = '{"hidden_size": 1, "tokenizer_fingerprint": "", "tau": 0.5, "colour": "red"}'
        await client.hset(keys.head(name), "facts", facts)
    error = await refused(stub.Generate(asked()))
    assert (error.reason, error.field) == ("HEAD_UNREADABLE", "policy.learned.name")
    assert (await status(stub))[name].tau == 0.5


async def test_the_client_stores_activates_lists_and_deletes(stack: Stack) -> None:
    router = await stack.router()
    async with AsyncClient(f"127.0.0.1:{router.port}") as client:
        first = await client.store_head("mine", A.data, description="first")
        second = await client.store_head("mine", B.data, active=False, ttl_s=60)
        listed = {head.full_name: head for head in (await client.status()).heads}
        assert {name: head.active for name, head in listed.items()} == {first: True, second: False}
        assert (listed[first].description, listed[first].stored, listed[first].tau) == ("first", True, 0.2)
        assert (listed[first].ttl_s, 0 < (listed[second].ttl_s or 0) <= 60) == (None, True)
        assert all(head.updated is not None for head in listed.values())
        assert await client.activate_head("mine", B.version) == second
        assert await client.activate_head("mine") == first
        answer = await client.answer(tokens=PROMPT, policy=Learned("mine"), max_new_tokens=3)
        assert answer.finished.policy == Learned(first, 0.2)
        await client.delete_head("mine")
        with pytest.raises(NotFound):
            await client.delete_head("mine")
        for wrong in ({"ttl_s": -1}, {"description": 3}):
            with pytest.raises(InvalidArgument) as caught:
                await client.store_head("mine", A.data, **wrong)
            assert caught.value.field == next(iter(wrong))


async def test_status_answers_while_redis_is_away(stack: Stack, redis_process: Any, tmp_path: Path) -> None:
    put(tmp_path, "mine", A)
    stub = await stack.stub(await stack.router(heads=str(tmp_path), redis_patience_s=0.2))
    await store(stub, B)
    redis_process.stop()
    assert set(await status(stub)) == {f"mine@{A.version}"}
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.StoreHead(router_pb2.StoreHeadRequest(name="mine", data=A.data))


class Kept:
    """What the store should have of one name, by the plainest rules."""

    def __init__(self) -> None:
        self.versions: set[str] = set()
        self.active = self.before = ""

    def put(self, version: str, active: bool) -> None:
        self.versions.add(version)
        if active:
            self.activate(version)

    def activate(self, version: str) -> bool:
        if version not in self.versions:
            return False
        if version != self.active:
            self.active, self.before = version, self.active
        return True

    def delete(self, version: str) -> str:
        if version and version == self.active:
            return "ACTIVE"
        if not (version in self.versions if version else self.versions):
            return "UNKNOWN"
        if not version:
            self.__init__()  # type: ignore[misc]
        self.versions.discard(version)
        self.before = "" if version == self.before else self.before
        return "OK"

    def expire(self, version: str) -> None:
        self.versions.discard(version)
        if version == self.active:
            self.active, self.before = self.before, ""
        elif version == self.before:
            self.before = ""


@pytest.mark.parametrize("seed", range(2))
async def test_any_changes_leave_what_they_should(redis_url: str, seed: int) -> None:
    dice, heads = random.Random(seed), HeadStore(RedisAddress(redis_url), 1)
    kept = {name: Kept() for name in ("one", "other")}
    async with Redis.from_url(redis_url) as client:
        for _ in range(200):
            name, version = dice.choice([*kept]), dice.choice("abcd")
            expected = kept[name]
            match dice.choice(["put", "put", "keep", "activate", "activate", "delete", "delete name", "expire"]):
                case "put" | "keep" as how:
                    await heads.put(name, version, b"data", "{}", "", ttl_s=0, active=how == "put")
                    expected.put(version, how == "put")
                case "activate":
                    assert await heads.activate(name, version) == expected.activate(version)
                case "delete":
                    assert await heads.delete(name, version) == expected.delete(version)
                case "delete name" if dice.random() < 0.3:
                    assert await heads.delete(name) == expected.delete("")
                case "expire":
                    await client.delete(keys.head(f"{name}@{version}"))
                    expected.expire(version)
            for each, should in kept.items():
                assert await heads.find(each) == Found(should.active, should.active, should.before)
            listed = {(head.name, head.version, head.active) for head in await heads.all()}
            assert listed == {(n, v, v == k.active) for n, k in kept.items() for v in k.versions}
    await heads.close()
