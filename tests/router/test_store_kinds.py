"""The store on every kind of Redis: fences, repeats, claims, pages; one server, under a Sentinel, a cluster."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from router_svc.trajectory import cancelling, keys
from router_svc.trajectory.errors import Behind, Fenced
from router_svc.trajectory.listing import Cursor
from router_svc.trajectory.session_names import session_name
from router_svc.trajectory.store import Owned, OwnedElsewhere, TrajectoryStore
from router_svc.trajectory.types import (
    Ended,
    FinishReason,
    Header,
    Label,
    Source,
    State,
    SwitchReason,
    joined_tokens,
)
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from tests.support.asking import until
from tests.support.redis_kinds import KINDS, flushed_url
from tests.support.trajectories import PROMPT, begun, chunk


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    return flushed_url(request)


@pytest.fixture
async def store(url: str) -> AsyncIterator[TrajectoryStore]:
    made = TrajectoryStore(RedisAddress(url), ttl_s=50, patience_s=5)
    yield made
    await made.close()


async def test_what_goes_in_comes_out(store: TrajectoryStore) -> None:
    owned = await begun(store)
    written = [chunk(Source.SLM, 3, 4, 5), chunk(Source.LLM, 5, 6, reason=SwitchReason.ENTROPY_ABOVE)]
    usage = Usage(num_prompt_tokens=3, num_slm_tokens=2, num_llm_tokens=1, num_switches=1)
    await store.append("s", owned, 3, written, usage, State.FINISHED, FinishReason.STOP)
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(trajectory.chunks) == [PROMPT, *written]
    header = trajectory.header
    assert (header.state, header.length, header.epoch, header.owner) == (State.FINISHED, 6, 1, "a")
    assert header.finished is not None
    assert (header.finished.reason, header.finished.usage) == (FinishReason.STOP, usage)
    assert await store.trajectory("other") is None


async def test_an_append_that_comes_twice_is_done_once(store: TrajectoryStore) -> None:
    owned = await begun(store)
    for _ in range(3):
        await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4, 5)], Usage())
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(joined_tokens(trajectory.chunks)) == [1, 2, 2**32 - 1, 4, 5]


async def test_a_claim_that_comes_twice_is_done_once(store: TrajectoryStore) -> None:
    assert await begun(store) == await begun(store) == Owned(1, "a")
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert trajectory.header.length == 3


async def test_whoever_lost_the_session_writes_nothing(store: TrajectoryStore) -> None:
    owned = await begun(store, "a")
    await store.renew("a", 0.1)
    header = await store.header("s")
    other = await store.claim(header, "s", "b", "settings", Usage(), [])
    assert isinstance(other, OwnedElsewhere)
    assert 0 < other.lease_ms <= 100
    await store.resign("a")
    assert await store.claim(header, "s", "b", "settings", Usage(), []) == Owned(2, "b")
    with pytest.raises(Fenced) as caught:
        await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage())
    assert caught.value.reason == "TAKEN_OVER"
    await store.append("s", Owned(2, "b"), 3, [chunk(Source.SLM, 3, 9)], Usage())
    await store.delete("s")
    with pytest.raises(Fenced) as caught:
        await store.append("s", Owned(2, "b"), 4, [chunk(Source.SLM, 4, 4)], Usage())
    assert caught.value.reason == "DELETED"


async def test_a_session_begun_anew_after_its_deletion_is_none_of_its_last_writer(store: TrajectoryStore) -> None:
    """The same id, epoch and length, but another trajectory."""
    last = await begun(store, "a")
    await store.delete("s")
    await begun(store, "b")
    with pytest.raises(Fenced) as caught:
        await store.append("s", last, 3, [chunk(Source.SLM, 3, 4)], Usage())
    assert caught.value.reason == "DELETED"
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(trajectory.chunks) == [PROMPT]


async def test_an_answer_that_was_interrupted_here_is_fenced_off_when_it_is_gone_on_with_here(
    store: TrajectoryStore,
) -> None:
    """The reply to its last word may have been lost; when that comes again, the answer is being written anew."""
    first = await begun(store)
    last_word = ("s", first, 3, [chunk(Source.SLM, 3, 4)], Usage(), State.INTERRUPTED)
    await store.append(*last_word)
    second = await store.claim(await store.header("s"), "s", "a", "settings", Usage(), [])
    assert second == Owned(2, "a")
    with pytest.raises(Fenced):
        await store.append(*last_word)
    header = await store.header("s")
    assert header is not None
    assert header.state is State.RUNNING


async def test_of_many_who_claim_at_once_one_wins(store: TrajectoryStore) -> None:
    await begun(store, "dead")
    header = await store.header("s")
    routers = [f"r{number}" for number in range(8)]
    await asyncio.gather(*(store.renew(router, 5) for router in routers))
    claims = [store.claim(header, "s", router, "settings", Usage(), []) for router in routers]
    outcomes = await asyncio.gather(*claims)
    assert sum(isinstance(outcome, Owned) for outcome in outcomes) == 1
    assert outcomes.count(None) == 7


async def test_appends_at_once_harm_no_other_whichever_slots_they_are_of(store: TrajectoryStore, url: str) -> None:
    names = [session_name(tenant, f"s{number}") for tenant in ("", "acme") for number in range(24)]
    owned = {name: await begun(store, session=name) for name in names}
    link = RedisLink(RedisAddress(url), patience_s=5)
    await link.command("SET", keys.chunks(names[0]), "not a stream")
    await link.command("HSET", keys.trajectory(names[1]), "epoch", 9)
    await link.command("HSET", keys.trajectory(names[2]), "length", 1)
    await link.command("DEL", keys.trajectory(names[3]))
    await link.close()
    for position in (3, 4):
        results = await asyncio.gather(
            *(store.append(name, owned[name], position, [chunk(Source.SLM, position, 4)], Usage()) for name in names),
            return_exceptions=True,
        )
        if position == 3:
            reasons = [getattr(result, "reason", None) for result in results[:4]]
            assert reasons == ["REDIS_REFUSED", "TAKEN_OVER", None, "DELETED"]
            assert isinstance(results[2], Behind)
        assert results[4:] == [False] * (len(names) - 4)
    for name in names[4:]:
        trajectory = await store.trajectory(name)
        assert trajectory is not None
        assert list(joined_tokens(trajectory.chunks)) == [1, 2, 2**32 - 1, 4, 4]


async def test_a_trajectory_is_followed_and_deleted_whole(store: TrajectoryStore) -> None:
    owned = await begun(store)
    tail = await store.tailing.look("s")
    assert tail is not None
    assert list(tail.chunks) == [PROMPT]
    await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage())
    rest = await store.tailing.look("s", tail.cursor)
    assert rest is not None
    assert [list(each.tokens) for each in rest.chunks] == [[4]]
    assert await store.delete("s")
    assert not await store.delete("s")
    assert await store.tailing.look("s") is None
    assert await store.page(10, None) == ([], None)


async def test_a_wish_to_cancel_reaches_a_living_router_and_ends_what_a_dead_one_left(store: TrajectoryStore) -> None:
    owned = await begun(store, "lives")
    await begun(store, "died", session="other")
    await store.renew("lives", 50)
    assert await store.cancelling.mark("s") == 1
    assert await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage()), "told at its next append"
    listed, _ = await store.page(9, None)
    assert [header.session_id for header in listed] == ["s", "other"]
    await until(lambda: time.time_ns() // 1_000_000 > listed[0].updated_ms)  # of one millisecond, "s" comes first
    assert await store.cancelling.mark("other") == Ended(State.INTERRUPTED, 3, True)
    assert [header.session_id for header in (await store.page(9, None))[0]] == ["other", "s"], "its end is a change"
    assert await store.cancelling.mark("other") == Ended(State.INTERRUPTED, 3, False)
    assert await store.cancelling.mark("nobody's") is None
    # Whoever claims it takes the wish away, and the one who looks again learns that its answer is over.
    await store.resign("lives")
    assert isinstance(await store.claim(await store.header("s"), "s", "next", "settings", Usage(), []), Owned)
    assert await store.cancelling.mark("s", 1) == Ended(State.RUNNING, 4, False)


async def test_a_router_that_was_only_slow_may_find_the_wish_first(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease was over as somebody looked; the answer is over by the wish all the same."""
    owned = await begun(store)

    async def meanwhile(*arguments: object) -> int:
        assert await store.append("s", owned, 3, [], Usage()), "it is told"
        await store.append("s", owned, 3, [], Usage(), State.INTERRUPTED)
        return 0

    monkeypatch.setattr(cancelling, "lease_ms", meanwhile)
    assert await store.cancelling.mark("s") == Ended(State.INTERRUPTED, 3, True)


async def _pages(store: TrajectoryStore, num: int, tenant: str, *, labelled: bool = False) -> list[str]:
    found: list[Header] = []
    before: Cursor | None = None
    while True:
        headers, before = await store.page(num, before, tenant=tenant, labelled=labelled)
        assert len(headers) == num or before is None
        found += headers
        if before is None:
            return [header.session_id for header in found]


async def test_pages_are_those_of_one_sorted_list(store: TrajectoryStore, url: str) -> None:
    """Many times are equal, one shard has far more than the others, some are gone or have no label any more."""
    rng = random.Random(7)
    link = RedisLink(RedisAddress(url), patience_s=5)
    for tenant in ("", "acme"):
        ids = [f"s{number}" for number in range(40)]
        crowded = keys.of_session(session_name(tenant, "s0")).listing
        more = (f"m{number}" for number in range(400))
        ids += [each for each in more if keys.of_session(session_name(tenant, each)).listing == crowded]
        times = {each: 2_000_000_000_000 + rng.choice((1, 2, 3, 2**40)) for each in ids}
        for each in ids:
            name = session_name(tenant, each)
            owned = await begun(store, session=name)
            await store.append(name, owned, 3, [], Usage(), State.FINISHED, FinishReason.STOP)
            await link.command("HSET", keys.trajectory(name), "updated", times[each])
            if rng.random() < 0.5:
                await store.label(name, Label.RIGHT)
            await link.command("ZADD", keys.of_session(name).listing, times[each], each)
        gone = set(rng.sample(ids, 9))
        for each in gone:
            await link.command("DEL", keys.trajectory(session_name(tenant, each)))
        headers = {each: await store.header(session_name(tenant, each)) for each in ids}
        left = sorted((each for each in ids if each not in gone), key=lambda each: (times[each], each), reverse=True)
        has_label = [each for each in left if (header := headers[each]) is not None and header.label is not None]
        for num in (1, 3, len(left), 1000):
            assert await _pages(store, num, tenant) == left
            assert await _pages(store, num, tenant, labelled=True) == has_label
    await link.close()


async def test_a_claim_asks_for_the_lease_of_who_writes(store: TrajectoryStore) -> None:
    """Which may have been renewed between the question and the claim: then the epoch fences its owner off."""
    owned = await begun(store, "slow")
    taken = await store.claim(await store.header("s"), "s", "other", "settings", Usage(), [])
    await store.renew("slow", 50)
    assert taken == Owned(2, "other")
    with pytest.raises(RstitchError) as caught:
        await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage())
    assert caught.value.reason == "TAKEN_OVER"


def test_the_shards_of_any_tenant_share_the_slots_evenly() -> None:
    from redis.crc import key_slot

    for tenant in ("", "acme", "umbrella.corp", "x" * 64):
        parts = sorted(key_slot(index.encode()) * keys.NUM_SHARDS // 16384 for index in keys.indexes(tenant))
        assert parts == list(range(keys.NUM_SHARDS))
        for number in range(100):
            assert len({key_slot(key.encode()) for key in keys.of_session(session_name(tenant, str(number)))}) == 1
