"""Quotas on every kind of Redis: trajectories are counted in other slots than requests, and nobody slips through."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from router_svc.access.account import Admission
from router_svc.access.kept import Kept, KeptTrajectories
from router_svc.access.quotas import Quotas
from router_svc.trajectory import keys
from router_svc.trajectory.session_names import session_name
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import FinishReason, State
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError
from rstitch.service.caller import Caller, Limits
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from tests.support.keys import make
from tests.support.redis_kinds import KINDS, flushed_url
from tests.support.trajectories import begun

LIMIT = 5


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    return flushed_url(request)


@pytest.fixture
async def store(url: str) -> AsyncIterator[TrajectoryStore]:
    made = TrajectoryStore(RedisAddress(url), ttl_s=50, patience_s=5)
    yield made
    await made.close()


@pytest.fixture
async def quotas(url: str) -> AsyncIterator[Quotas]:
    made = Quotas(RedisLink(RedisAddress(url), 5), "r", lease_s=30, ttl_s=50)
    yield made
    await made.close()


def caller(**limits: int) -> Caller:
    return make(limits=Limits(**limits)).key.caller()


async def written(quotas: Quotas, store: TrajectoryStore, who: Caller, session_id: str) -> bool:
    """Admits a request, writes its short answer and frees its slot; False: its key has too many trajectories."""
    admission = Admission(quotas, who, session_id)
    try:
        await admission.enter()
    except RstitchError:
        return False
    usage = Usage(num_prompt_tokens=3)
    name = session_name(who.tenant, session_id)
    owned = await begun(store, session=name)
    admission.begin(usage, 3)
    await store.append(name, owned, 3, [], usage, State.FINISHED, FinishReason.STOP)
    settling = admission.end()
    assert settling is not None
    await settling
    return True


async def test_of_many_at_once_no_more_are_kept_than_are_allowed(quotas: Quotas, store: TrajectoryStore) -> None:
    """Answers begin and end between the count and the admission of others."""
    rng = random.Random(3)
    who = caller(max_trajectories=LIMIT)
    for round_ in range(4):
        ids = [f"s{round_}-{number}" for number in range(24)]
        rng.shuffle(ids)
        done = await asyncio.gather(*(written(quotas, store, who, each) for each in ids))
        kept, _ = await store.page(100, None, tenant=who.tenant)
        assert len(kept) == LIMIT
        assert sum(done) == (LIMIT if round_ == 0 else 2)
        assert (await quotas.use(who)).max_trajectories == LIMIT
        # What is kept already may be gone on with, and what is forgotten makes room.
        assert await _may(quotas, who, kept[0].session_id)
        assert not await _may(quotas, who, "one-more")
        for header in kept[:2]:
            await store.delete(session_name(who.tenant, header.session_id))


async def _may(quotas: Quotas, who: Caller, session_id: str) -> bool:
    admission = Admission(quotas, who, session_id)
    try:
        await admission.enter()
    except RstitchError:
        return False
    await admission.give_back(request=True)
    return True


async def test_who_ended_between_the_count_and_the_admission_is_counted_again(
    quotas: Quotas, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, meanwhile = caller(max_trajectories=1), [True]
    inner: Callable[..., Any] = KeptTrajectories.count

    async def late(self: KeptTrajectories, *arguments: Any) -> Kept:
        found: Kept = await inner(self, *arguments)
        if meanwhile and meanwhile.pop():
            assert await written(quotas, store, who, "quick")  # a whole answer, of which nothing was counted
        return found

    monkeypatch.setattr(KeptTrajectories, "count", late)
    with pytest.raises(RstitchError) as refused:
        await Admission(quotas, who, "slow").enter()
    assert refused.value.reason == "QUOTA_EXCEEDED"
    assert 40 < (refused.value.retry_after_s or 0) <= 50, "until the one that is kept is forgotten"


async def test_the_wait_is_that_of_the_oldest_over_all_shards(quotas: Quotas, store: TrajectoryStore) -> None:
    times: Sequence[int] = (30_000, 10_000, 20_000)
    base = 2_000_000_000_000
    who = caller(max_trajectories=3)
    for number, time_ms in enumerate(times):
        await begun(store, session=(name := session_name(who.tenant, f"s{number}")))
        await quotas._link.command("ZADD", keys.of_session(name).listing, base + time_ms, f"s{number}")
    quotas.now_ms = lambda: base + 35_000
    with pytest.raises(RstitchError) as refused:
        await Admission(quotas, who, "one-more").enter()
    assert refused.value.retry_after_s == pytest.approx(25, abs=1)
