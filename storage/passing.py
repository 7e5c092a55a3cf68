"""Which errors of Redis end by themselves. It connects nothing and waits for nothing."""

from __future__ import annotations

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

# Redis restarts, loads its file, or a replica is about to be made the primary; slots move from node to node. What a
# client says of a cluster without nodes or with slots that nobody has is no RedisError.
PASSING = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    AskError,
    TryAgainError,
    RedisClusterException,
    OSError,
)
# The same where a script met it, which wraps the words of others into its own, or where the client has no class for it:
# too few replicas are there to write, or the primary became a replica while somebody waited for others.
_WORDS = ("READONLY ", "NOREPLICAS ", "UNBLOCKED ", "CLUSTERDOWN ", "TRYAGAIN ", "MASTERDOWN ", "LOADING ")


def is_passing(error: BaseException) -> bool:
    """Says whether a call that failed so may be made again."""
    return isinstance(error, PASSING) or (isinstance(error, ResponseError) and _says_so(str(error)))


def is_demoted(error: BaseException) -> bool:
    """Says whether a server refused because it is a replica: whoever is still connected to it should look anew."""
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and "READONLY " in str(error))


def script_error(message: str) -> RedisError:
    """The exception for an error that a script caught and returned as text."""
    return ReadOnlyError(message) if "READONLY" in message else ResponseError(message)


def _says_so(message: str) -> bool:
    return any(word in message for word in _WORDS)
