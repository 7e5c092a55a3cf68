"""Every Redis key of the router, each with its why.

One script touches the keys of many sessions at once, so that they must lie in one Redis: a cluster would refuse it.
"""

from __future__ import annotations

_PREFIX = "rstitch"

# Sorted set of session ids by the Unix time in ms at which they last grew: pages of the listing are read from it, as a
# scan over all keys would stop Redis for everybody. It outlives the trajectories that it names until a claim tidies it.
INDEX = f"{_PREFIX}:trajectories"
# The same of those whose last answer has a label: few among many, and to page through them reads no others.
LABELLED = f"{_PREFIX}:labelled"
# Hash of profiles as JSON by name: few and small, so that one command reads them all. They do not expire.
PROFILES = f"{_PREFIX}:profiles"
# Sorted set of the heads NAME@VERSION by the Unix time in ms at which they were last put, so that they can be listed.
HEADS = f"{_PREFIX}:heads"
# Hash of a name (which version it stands for) or of NAME@VERSION (the head; it may expire). heads.lua gets the prefix,
# because only there it turns out which versions a name has.
HEAD_PREFIX = f"{_PREFIX}:head:"
# Hash of access keys as JSON by id, and under "version" what differs after every change: whoever polls reads one field.
KEYS = f"{_PREFIX}:keys"
# String that exists while the router of that id lives: its owner renews it, and its expiry is the lease. claim.lua gets
# the prefix, because only there it turns out which router owns the trajectory.
ROUTER_PREFIX = f"{_PREFIX}:router:"


def trajectory(session_id: str) -> str:
    """Hash with the header of a trajectory: small, so that a claim or a listing reads no tokens."""
    return f"{_PREFIX}:trajectory:{session_id}"


def chunks(session_id: str) -> str:
    """Stream with one entry per chunk: to append costs the new tokens only, and their order is kept."""
    return f"{_PREFIX}:chunks:{session_id}"


def router(router_id: str) -> str:
    """String that says, while it exists, that this router lives."""
    return f"{ROUTER_PREFIX}{router_id}"


def head(full_name: str) -> str:
    """Hash of a head NAME@VERSION: its data and what is said of it, which expire together."""
    return f"{HEAD_PREFIX}{full_name}"


def quota(key_id: str, what: str) -> str:
    """What a key took of something, as the scripts in router_svc/access/ keep it; it expires when it is past."""
    return f"{_PREFIX}:quota:{key_id}:{what}"
