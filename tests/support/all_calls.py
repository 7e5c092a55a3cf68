"""All that a router does with what is kept."""

from __future__ import annotations

from rstitch.client.aio import AsyncClient
from rstitch.client.types import KeptProfile, Learned, Threshold
from tests.support.heads import random_head


async def all_that_a_router_does(client: AsyncClient) -> None:
    """Touches every part of what is kept."""
    first = await client.answer(text="7 8", policy=Threshold(0.5), max_new_tokens=12)
    await client.answer(session_id=first.session_id, text="9", max_new_tokens=4)
    await client.label_trajectory(first.session_id, True)
    assert [each.session_id async for each in client.trajectories(labelled=True)] == [first.session_id]
    await client.label_trajectory(first.session_id, None)
    assert (await client.trajectory(first.session_id)).length > 8
    await client.put_profile(KeptProfile("mine", Threshold(0.3)))
    assert [each.name for each in await client.profiles()] == ["mine"]
    await client.delete_profile("mine")
    heads = [random_head(1, seed=seed) for seed in (4, 5)]
    for ttl_s, head in enumerate(heads):
        await client.store_head("mine", head.data, ttl_s=100 * ttl_s)
    await client.answer(text="7", policy=Learned("mine"), max_new_tokens=4)
    await client.activate_head("mine", heads[0].version)
    assert len((await client.status()).heads) == 2
    await client.delete_head("mine")
    await client.delete_trajectory(first.session_id)
