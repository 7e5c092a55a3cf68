"""Several commands at once for keys of one node of a cluster, in one round trip; or as one step for keys of one slot.

The client of redis-py has neither: its transactions start a thread for each command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio.cluster import PipelineCommand, RedisCluster
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    MovedError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
)

_log = structlog.get_logger(__name__)
Command = tuple[Any, ...]


async def on_node(cluster: RedisCluster, key: str, commands: Sequence[Command]) -> list[Any]:
    """Sends commands to the node that has the slot of `key`; a reply or an exception of redis for each.

    Raises what redis raises if that node cannot be reached. What shows that slots are elsewhere by now is as any other
    error: where they are is known at the next call.
    """
    await cluster.initialize()
    node = cluster.get_node_from_key(key)
    assert node is not None
    sent = [PipelineCommand(place, *command) for place, command in enumerate(commands)]
    try:
        await node.execute_pipeline(sent)
    except (ConnectionError, TimeoutError, OSError):
        await node.disconnect_free_connections()
        await _look_again(cluster)
        raise
    replies = [each.result for each in sent]
    for reply in replies:
        if isinstance(
            reply, ConnectionError | TimeoutError | OSError
        ):  # told of one command, and so of those behind it
            await _look_again(cluster)
            raise reply
        if isinstance(reply, MovedError):
            await cluster.nodes_manager.move_slot(reply)
    if any(isinstance(reply, ClusterDownError) for reply in replies):
        await _look_again(cluster)
    return replies


async def at_once(cluster: RedisCluster, key: str, commands: Sequence[Command]) -> list[Any]:
    """Runs commands on keys of one slot as one step. Raises what redis raises."""
    replies = await on_node(cluster, key, [("MULTI",), *commands, ("EXEC",)])
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    made = zip(commands, replies[-1], strict=True)
    return [cluster.response_callbacks.get(command[0], _as_it_is)(reply) for command, reply in made]


def _as_it_is(reply: Any) -> Any:
    return reply


async def _look_again(cluster: RedisCluster) -> None:
    """Asks who has which slots, in one try: the next call asks again."""
    try:
        await cluster.nodes_manager.initialize()
    except RedisClusterException as error:
        _log.debug("nodes of the cluster not known", error=str(error))
