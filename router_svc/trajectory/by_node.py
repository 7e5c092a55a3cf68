"""Appends in a cluster: to each node its own, so that one which is away holds up no sessions of others.

    caller   a (node 1)   b c (node 2)   d (node 1)
    node 1   [ a          ]              [ d        ]
    node 2                [ b c                ]

A script touches the keys of one slot. Those of one node go out in one round trip, a call for each slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from router_svc.trajectory import keys
from router_svc.trajectory.group_commit import GroupCommit
from storage.scripts import Call, ClusterScript

# A session's name, and the arguments of its append.
Append = tuple[str, list[Any]]
Outcome = list[bytes] | RedisError


class CommitsByNode:
    """One group commit for each node."""

    def __init__(
        self,
        script: ClusterScript,
        send: Callable[[list[Append]], Awaitable[Sequence[Outcome]]],
        max_group: int,
    ) -> None:
        self._script = script
        self._send = send
        self._max_group = max_group
        self._commits: dict[str, GroupCommit[Append, list[bytes]]] = {}  # by node, of which there are few
        self._tasks: set[asyncio.Task[list[bytes]]] = set()

    def submit(self, append: Append, done: Callable[[list[bytes] | Exception], None]) -> None:
        """Takes an append; `done`, which must not raise, gets its reply or what went wrong."""
        task = asyncio.create_task(self(append), name="append by node")
        self._tasks.add(task)

        def tell(task: asyncio.Task[list[bytes]]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                done(_outcome(task))

        task.add_done_callback(tell)

    async def __call__(self, append: Append) -> list[bytes]:
        """Returns the reply for an append. Raises what redis raises."""
        node = await self._script.node_of(keys.trajectory(append[0]))
        commit = self._commits.get(node)
        if commit is None:
            commit = self._commits[node] = GroupCommit(self._send, self._max_group)
        return await commit(append)


def _outcome(task: asyncio.Task[list[bytes]]) -> list[bytes] | Exception:
    error = task.exception()
    if error is None:
        return task.result()
    return error if isinstance(error, Exception) else RuntimeError(str(error))


async def append_by_slot(
    script: ClusterScript,
    appends: Sequence[Append],
    call_of: Callable[[Sequence[Append]], Call],
    outcomes_of: Callable[[Any, int], Sequence[Outcome]],
) -> list[Outcome]:
    """Sends appends that one node takes, in one round trip; an outcome for each, in their order."""
    by_slot: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(appends):
        by_slot.setdefault(keys.of_session(name).listing, []).append(place)
    replies = await script.many([call_of([appends[place] for place in places]) for places in by_slot.values()])
    made: dict[int, Outcome] = {}
    for places, reply in zip(by_slot.values(), replies, strict=True):
        refused = isinstance(reply, Exception)
        made |= zip(places, [reply] * len(places) if refused else outcomes_of(reply, len(places)), strict=True)
    return [made[place] for place in range(len(appends))]
