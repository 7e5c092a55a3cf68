"""Where keys are kept, when a change of them holds, and what a server does while it cannot know."""

from __future__ import annotations

import asyncio
import hmac
import time
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from router_svc.access import changes
from router_svc.access.cached_keys import CachedKeys
from router_svc.access.key_store import KeyStore
from rstitch.errors import RstitchError
from rstitch.service import keys as keys_module
from rstitch.service.caller import Limits, Scope
from rstitch.service.key_file import KeyFile, load, save
from rstitch.service.keys import Key, from_json, key_of, to_json
from storage.redis_address import RedisAddress
from tests.support.keys import Shown, bearer, make, put, refusal, write
from tests.support.redis_process import RedisProcess
from tests.support.toy_stack import Stack

STATUS = "/rstitch.v1.RouterService/GetStatus"
BAD = ("UNAUTHENTICATED", "BAD_KEY")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Known:
    """A source of given keys."""

    def __init__(self, *shown: Shown) -> None:
        self.keys = {each.key.id: each.key for each in shown}

    def find(self, key_id: str) -> Key | None:
        return self.keys.get(key_id)


# A record


def test_what_is_kept_reads_as_it_was_and_has_no_secret() -> None:
    shown = make([Scope.GENERATE], limits=Limits(requests_per_minute=60, max_running=3), expires=5, revoked=6)
    text = to_json(shown.key)
    assert from_json(text) == shown.key
    assert shown.secret.rpartition("-")[2] not in text
    assert len(shown.secret) > 40


def test_secrets_are_never_the_same() -> None:
    assert len({make().secret for _ in range(100)} | {make().key.id for _ in range(100)}) == 200


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scopes": ["root"]}, "scopes"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a:b"}, "tenant"),
        ({"tenant": "a\n"}, "tenant"),
        ({"sha256": "secret-thing"}, "sha256"),
        ({"id": "*"}, "id"),
        ({"expires": "soon"}, "expires"),
        ({"limits": {"max_running": -1}}, "limit"),
    ],
)
def test_a_record_that_is_none_is_refused_by_its_field_and_not_quoted(change: dict[str, Any], told: str) -> None:
    import json

    record = json.loads(to_json(make().key)) | change
    with pytest.raises(ValueError, match=told) as caught:
        from_json(json.dumps(record))
    assert "secret-thing" not in str(caught.value)
    assert record["sha256"] not in str(caught.value)


@pytest.mark.parametrize("what", ["known", "unknown", "expired", "revoked", "malformed", "empty"])
def test_every_secret_is_compared_once_by_compare_digest(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    good = make()
    asked = {
        "known": good,
        "unknown": make(),
        "expired": make(expires=1),
        "revoked": make(revoked=1),
        "malformed": Shown(good.key, "not-a-key"),
        "empty": Shown(good.key, ""),
    }
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(keys_module.hmac, "compare_digest", compare)
    found = key_of(asked[what].secret, Known(good, asked["expired"], asked["revoked"]), time.time())
    assert found == (good.key if what == "known" else None)
    assert [len(one) for one, _ in compared] == [64]
    assert [len(other) for _, other in compared] == [64]


# A file


def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    first, second, clock = make(), make(), Clock()
    path = write(tmp_path / "keys.json", [first])
    assert path.stat().st_mode & 0o777 == 0o600
    source = KeyFile(path, "--keys-file", clock)
    write(path, [second])
    clock.now += 5
    assert source.find(first.key.id) is None
    assert source.find(second.key.id) == second.key


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"[" * 100_000, b'{"keys": 3}', b'{"keys": [{"id": "x"}]}', b"\xff\xfe", None]
)
def test_a_broken_file_keeps_the_last_good_keys_and_says_so_once(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, clock = make(), Clock()
    path = write(tmp_path / "keys.json", [shown])
    source = KeyFile(path, "--keys-file", clock)
    path.unlink() if content is None else path.write_bytes(content)
    for _ in range(3):
        clock.now += 5
        assert source.find(shown.key.id) == shown.key
    out = capsys.readouterr().out
    assert out.count("keys cannot be read") == 1
    write(path, [])  # it is well again
    clock.now += 5
    assert source.find(shown.key.id) is None


def test_a_file_that_was_cut_short_is_not_one_with_fewer_keys(tmp_path: Path) -> None:
    shown = [make() for _ in range(3)]
    path = write(tmp_path / "keys.json", shown)
    text = path.read_bytes()
    for length in range(0, len(text) - 2, 7):
        path.write_bytes(text[:length])
        with pytest.raises(ValueError, match="JSON"):
            load(path)


@pytest.mark.parametrize("what", ["missing", "broken", "writable by others"])
def test_a_server_does_not_start_with_a_bad_file(what: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    if what != "missing":
        write(path, [make()])
        path.chmod(0o666 if what == "writable by others" else 0o600)
    if what == "broken":
        path.write_text("{")
    with pytest.raises(RstitchError, match=str(path)) as caught:
        KeyFile(path, "--keys-file")
    assert (caught.value.field, caught.value.reason) == ("--keys-file", "INVALID_FIELD")


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = make()
    path = write(tmp_path / "keys.json", [shown])

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(path, {})
    assert load(path) == {shown.key.id: shown.key}
    assert list(tmp_path.iterdir()) == [path]


async def test_a_router_takes_keys_of_a_file(stack: Stack, tmp_path: Path) -> None:
    shown = make()
    router = await stack.router(keys=str(write(tmp_path / "keys.json", [shown])))
    address = f"127.0.0.1:{router.port}"
    assert await refusal(address, STATUS, shown.metadata) is None
    write(tmp_path / "keys.json", [])
    await soon_refused(address, shown)


# Redis


async def soon_refused(address: str, shown: Shown) -> None:
    """Waits until a key is refused, for the five seconds in which a revocation has to hold."""
    async with asyncio.timeout(5):
        while (got := await refusal(address, STATUS, shown.metadata)) is None:
            pass
    assert got == BAD


async def test_a_revocation_holds_on_two_routers_and_a_new_key_is_let_in(stack: Stack) -> None:
    old, other = make(), make()
    await put(stack.redis_url, old)
    addresses = [f"127.0.0.1:{(await stack.router(keys='redis')).port}" for _ in range(2)]
    for address in addresses:
        assert await refusal(address, STATUS, old.metadata) is None
        assert await refusal(address, STATUS, other.metadata) == BAD
    store = KeyStore(RedisAddress(stack.redis_url), patience_s=1)

    def edit(keys: dict[str, Key]) -> None:
        changes.revoke(keys, old.key.id, time.time())
        keys[other.key.id] = other.key

    await store.change(edit)
    await store.close()
    await asyncio.gather(*(soon_refused(address, old) for address in addresses))
    for address in addresses:
        assert await refusal(address, STATUS, other.metadata) is None


async def test_no_call_asks_redis(redis_process: RedisProcess, redis_url: str) -> None:
    shown = make()
    await put(redis_url, shown)
    source = CachedKeys(KeyStore(RedisAddress(redis_url), patience_s=0))
    await source.refresh()
    async with Redis.from_url(redis_url) as client:
        before = (await client.info("stats"))["total_commands_processed"]
        for _ in range(100):
            assert key_of(shown.secret, source, time.time()) == shown.key
        after = (await client.info("stats"))["total_commands_processed"]
    await source.close()
    assert after - before == 1  # the one that asks


async def test_keys_hold_for_a_bounded_time_while_redis_is_away(redis_process: RedisProcess, redis_url: str) -> None:
    shown, clock = make(), Clock()
    await put(redis_url, shown)
    source = CachedKeys(KeyStore(RedisAddress(redis_url), patience_s=0), clock, held_s=30)
    with pytest.raises(RstitchError) as before:
        source.find(shown.key.id)
    await source.refresh()
    redis_process.stop()
    clock.now += 29
    await source.refresh()
    assert source.find(shown.key.id) == shown.key
    clock.now += 2
    with pytest.raises(RstitchError) as after:
        source.find(shown.key.id)
    redis_process.start()  # and it has forgotten all
    await source.refresh()
    assert source.find(shown.key.id) is None
    await source.close()
    for caught in (before, after):
        assert (caught.value.code.name, caught.value.reason) == ("UNAVAILABLE", "KEYS_UNAVAILABLE")
        assert caught.value.retry_after_s
        assert str(redis_process.port) not in str(caught.value)


async def test_a_key_that_cannot_be_read_holds_nobody_else_up(redis_url: str) -> None:
    shown, broken = make(), make()
    await put(redis_url, shown, broken)
    async with Redis.from_url(redis_url) as client:
        await client.hset("rstitch:keys", broken.key.id, "{")
    source = CachedKeys(KeyStore(RedisAddress(redis_url), patience_s=0))
    await source.refresh()
    await source.close()
    assert source.find(shown.key.id) == shown.key
    assert source.find(broken.key.id) is None


async def test_two_who_change_keys_at_once_lose_nothing(redis_url: str) -> None:
    made = [make() for _ in range(12)]
    await asyncio.gather(*(put(redis_url, shown) for shown in made))
    store = KeyStore(RedisAddress(redis_url), patience_s=1)
    _, found = await store.all()
    await store.close()
    assert found == {shown.key.id: shown.key for shown in made}


async def test_a_change_whose_reply_was_lost_is_made_once(redis_url: str) -> None:
    shown = make()
    await put(redis_url, shown)
    store = KeyStore(RedisAddress(redis_url), patience_s=1)
    call, failed = store._link.call, []

    async def losing(work: Any, *args: Any) -> Any:
        reply = await call(work, *args)
        if not failed and not isinstance(reply, dict):
            failed.append(reply)
            return await call(work, *args)  # as the link does when a connection dies
        return reply

    store._link.call = losing  # type: ignore[method-assign,assignment]
    new, _ = await store.change(lambda keys: changes.rotate(keys, shown.key.id, 60, time.time()))
    _, found = await store.all()
    await store.close()
    assert failed
    assert found.keys() == {shown.key.id, new.id}


# Rotation


def test_a_rotated_key_lives_beside_its_successor_for_the_grace() -> None:
    old = make([Scope.GENERATE], created=1000, expires=5000, limits=Limits(max_running=2))
    keys = {old.key.id: old.key}
    new, secret = changes.rotate(keys, old.key.id, grace_s=100, now=2000)
    assert (new.tenant, new.scopes, new.limits) == (old.key.tenant, old.key.scopes, old.key.limits)
    assert (new.created, new.expires) == (2000, 6000)
    source = Known()
    source.keys = keys
    for now, holds in ((2000, True), (2099, True), (2100, False)):
        assert (key_of(old.secret, source, now) is not None) is holds
        assert key_of(secret, source, now) == new
    with pytest.raises(RstitchError, match=new.id):
        changes.rotate(keys, old.key.id, grace_s=100, now=2000)


def test_a_grace_lengthens_no_life() -> None:
    old = make(expires=2010)
    keys = {old.key.id: old.key}
    changes.rotate(keys, old.key.id, grace_s=100, now=2000)
    assert keys[old.key.id].expires == 2010


@pytest.mark.parametrize("over", [{"expires": 1000}, {"revoked": 1000}])
def test_a_key_that_does_not_hold_is_not_rotated(over: dict[str, int]) -> None:
    old = make(**over)
    with pytest.raises(RstitchError, match="does not hold"):
        changes.rotate({old.key.id: old.key}, old.key.id, grace_s=100, now=2000)


def test_a_revoked_key_holds_at_no_time() -> None:
    shown = make(revoked=2000)
    assert not any(shown.key.holds(now) for now in (0, 1999, 2001))


async def test_both_keys_of_a_rotation_are_let_in(stack: Stack) -> None:
    old = make()
    await put(stack.redis_url, old)
    store = KeyStore(RedisAddress(stack.redis_url), patience_s=1)
    _, secret = await store.change(lambda keys: changes.rotate(keys, old.key.id, 60, time.time()))
    await store.close()
    router = await stack.router(keys="redis")
    for metadata in (old.metadata, bearer(secret)):
        assert await refusal(f"127.0.0.1:{router.port}", STATUS, metadata) is None
