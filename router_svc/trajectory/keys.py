"""Every Redis key of the router, each with its why. What is a tenant's own has the tenant in its key.

What one script touches lies in one slot of a Redis Cluster: what is in braces says which. The sessions of a tenant are
spread over so many shards, each with an index of its own, and a session's keys lie beside its shard's index. One server
has the same keys, so that what it keeps can be moved to a cluster.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import NamedTuple

from router_svc.trajectory.session_names import id_in, tenant_in

_PREFIX = "rstitch"
# A page of the listing asks each of them. With these names the shards of any tenant lie in as many equal parts of the
# slots (CRC16 is linear), so that up to so many primaries have the same share of its sessions.
NUM_SHARDS = 16
_SHARDS = tuple(f"{number // 2}{number % 2}" for number in range(NUM_SHARDS))

# Hash of profiles as JSON by name: few and small, so that one command reads them all. They do not expire. These are of
# those without a tenant, and every tenant may use all of them.
PROFILES = f"{_PREFIX}:profiles"
# Sorted set of the heads NAME@VERSION by the Unix time in ms at which they were last put, so that they can be listed.
HEADS = f"{_PREFIX}:{{heads}}"
# Hash of a name (which version it stands for) or of NAME@VERSION (the head; it may expire). heads.lua gets the prefix,
# because only there it turns out which versions a name has.
HEAD_PREFIX = f"{HEADS}:"
# The same two as releases without clusters wrote them: moved when they are found.
OLD_HEADS = f"{_PREFIX}:heads"
OLD_HEAD_PREFIX = f"{_PREFIX}:head:"
# Hash of access keys as JSON by id, and under "version" what differs after every change: whoever polls reads one field.
KEYS = f"{_PREFIX}:keys"


class SessionKeys(NamedTuple):
    """The keys of one session, all in one slot."""

    # Hash with the header of its trajectory: small, as a claim or a listing reads no tokens.
    trajectory: str
    # Stream with one entry per chunk: to append costs the new tokens only, and their order is kept.
    chunks: str
    # Sorted set of the ids of its shard's sessions by the Unix time in ms at which they last grew: pages of the listing
    # are read from it, as a scan over all keys would stop Redis for everybody. It outlives the trajectories that it
    # names until a claim tidies it.
    listing: str
    # The same of those whose last answer has a label: few among many, and to page through them reads no others.
    labelled: str


@lru_cache(maxsize=4096)
def of_session(name: str) -> SessionKeys:
    """The keys of a session by its name."""
    session_id, tenant = id_in(name), tenant_in(name)
    shard = _SHARDS[zlib.crc32(session_id.encode()) % NUM_SHARDS]
    return SessionKeys(
        f"{_PREFIX}:{{{tenant}:{shard}}}:trajectory:{session_id}",
        f"{_PREFIX}:{{{tenant}:{shard}}}:chunks:{session_id}",
        _index(tenant, shard),
        _labelled(tenant, shard),
    )


def trajectory(name: str) -> str:
    """Hash with the header of a trajectory, by its session's name."""
    return of_session(name).trajectory


def chunks(name: str) -> str:
    """Stream of a trajectory's chunks, by its session's name."""
    return of_session(name).chunks


def indexes(tenant: str) -> list[str]:
    """The sorted sets of a tenant's session ids, one of each shard; whoever pages through them meets no other's."""
    return [_index(tenant, shard) for shard in _SHARDS]


def all_labelled(tenant: str) -> list[str]:
    """The same of those whose last answer has a label."""
    return [_labelled(tenant, shard) for shard in _SHARDS]


def profiles(tenant: str) -> str:
    """Hash of a tenant's own profiles, as PROFILES."""
    return f"{PROFILES}:{tenant}" if tenant else PROFILES


def router(router_id: str) -> str:
    """String that exists while a router lives: its owner renews it, and its expiry is the lease."""
    return f"{_PREFIX}:router:{router_id}"


def head(full_name: str) -> str:
    """Hash of a head NAME@VERSION: its data and what is said of it, which expire together."""
    return f"{HEAD_PREFIX}{full_name}"


def quota(key_id: str, what: str) -> str:
    """What a key took of something, as the scripts in router_svc/access/ keep it; it expires when it is past."""
    return f"{_PREFIX}:{{quota:{key_id}}}:{what}"


def _index(tenant: str, shard: str) -> str:
    return f"{_PREFIX}:{{{tenant}:{shard}}}:trajectories"


def _labelled(tenant: str, shard: str) -> str:
    return f"{_PREFIX}:{{{tenant}:{shard}}}:labelled"
