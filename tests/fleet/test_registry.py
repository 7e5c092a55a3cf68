"""Workers say in a real Redis that they are there: who lives, who is refused, who is forgotten."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from fleet.announcement import Announcement
from fleet.registry import Registry, fingerprint_key, workers_key
from rstitch.errors import RstitchError
from storage.redis_link import RedisLink

_SLM_0 = Announcement(
    id="slm-0",
    role="slm",
    address="10.0.0.1:50051",
    instance_id="a",
    weights_fingerprint="w1",
    tokenizer_fingerprint="t1",
    model="tiny-slm",
    version="0",
    num_pages=100,
    num_free_pages=90,
    num_running=1,
    num_waiting=0,
    num_sessions=3,
    draining=False,
)
_SLM_1 = replace(_SLM_0, id="slm-1", address="10.0.0.2:50051", instance_id="b")


async def test_who_announces_itself_is_read_as_it_was_last(link: RedisLink) -> None:
    registry = Registry(link, "default")
    await registry.beat(_SLM_1)
    await registry.beat(_SLM_0)
    fuller = replace(_SLM_0, num_free_pages=2, draining=True)
    await registry.beat(fuller)
    assert await registry.read("slm") == [fuller, _SLM_1]
    assert await registry.read("llm") == []
    assert await Registry(link, "another").read("slm") == []


async def test_who_withdraws_is_gone_at_once_and_leaves_no_key(link: RedisLink) -> None:
    registry = Registry(link, "default")
    await registry.beat(_SLM_0)
    await registry.withdraw(replace(_SLM_0, address="10.0.0.9:1"))  # another's, that had this id before
    assert await registry.read("slm") == [_SLM_0]
    await registry.withdraw(_SLM_0)
    assert await registry.read("slm") == []
    assert await link.redis.exists(workers_key("default", "slm"), fingerprint_key("default", "slm")) == 0


async def test_who_is_silent_is_gone_and_another_model_may_come(link: RedisLink) -> None:
    registry = Registry(link, "default", ttl_s=0.05)
    await registry.beat(_SLM_0)
    other = replace(_SLM_1, weights_fingerprint="w2")
    while await registry.read("slm"):  # noqa: ASYNC110 - nothing but Redis' clock tells
        await asyncio.sleep(0.01)
    for _ in range(1000):  # its fingerprint may outlive it by a moment
        with suppress(RstitchError):
            await registry.beat(other)
            break
        await asyncio.sleep(0.01)
    assert await registry.read("slm") == [other]


@pytest.mark.parametrize("other", [{"weights_fingerprint": "w2"}, {"tokenizer_fingerprint": "t2"}])
async def test_a_worker_that_differs_is_refused_by_both_fingerprints(link: RedisLink, other: dict[str, str]) -> None:
    registry = Registry(link, "default")
    await registry.beat(_SLM_0)
    differs = replace(_SLM_1, **other)  # type: ignore[arg-type]  # names of fields
    with pytest.raises(RstitchError) as refused:
        await registry.beat(differs)
    assert refused.value.reason == "MIXED_FLEET"
    assert _SLM_0.fingerprint in str(refused.value)
    assert differs.fingerprint in str(refused.value)
    assert await registry.read("slm") == [_SLM_0]
    await registry.beat(replace(differs, role="llm"))  # the other role has a model of its own


async def test_an_id_is_one_workers_while_it_lives(link: RedisLink) -> None:
    registry = Registry(link, "default")
    await registry.beat(_SLM_0)
    with pytest.raises(RstitchError, match=r"10\.0\.0\.1:50051 has the id slm-0"):
        await registry.beat(replace(_SLM_1, id="slm-0"))
    restarted = replace(_SLM_0, instance_id="c")
    await registry.beat(restarted)
    assert await registry.read("slm") == [restarted]


def test_a_newer_announcement_is_read_and_one_that_says_too_little_is_not() -> None:
    text = _SLM_0.to_json()
    assert Announcement.from_json(text.replace("{", '{"of_later":1,', 1)) == _SLM_0
    with pytest.raises(ValueError, match="too little"):
        Announcement.from_json('{"id":"slm-0"}')


async def test_a_cancellation_that_the_library_forgets_ends_the_call(link: RedisLink) -> None:
    """As `asyncio.wait_for` of Python 3.11 does, in which the library sends: whoever beats would beat for ever."""
    began = asyncio.Event()

    async def forgets() -> int:
        with suppress(asyncio.CancelledError):
            began.set()
            await asyncio.sleep(60)
        return 1

    calling = asyncio.create_task(link.call(forgets))
    await began.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
