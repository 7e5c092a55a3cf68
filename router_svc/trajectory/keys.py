"""Every Redis key of the router, each with its why. What is a tenant's own has the tenant in its key.

One script touches the keys of many sessions at once, so that they must lie in one Redis: a cluster would refuse it.
"""

from __future__ import annotations

_PREFIX = "rstitch"

# The first three are those of sessions and profiles without a tenant; below are those of any.
# Sorted set of session ids by the Unix time in ms at which they last grew: pages of the listing are read from it, as a
# scan over all keys would stop Redis for everybody. It outlives the trajectories that it names until a claim tidies it.
INDEX = f"{_PREFIX}:trajectories"
# The same of those whose last answer has a label: few among many, and to page through them reads no others.
LABELLED = f"{_PREFIX}:labelled"
# Hash of profiles as JSON by name: few and small, so that one command reads them all. They do not expire. Of these
# every tenant may use all.
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


def trajectory(name: str) -> str:
    """Hash with the header of a trajectory, by its session's name: small, as a claim or a listing reads no tokens."""
    return f"{_PREFIX}:trajectory:{name}"


def chunks(name: str) -> str:
    """Stream with one entry per chunk: to append costs the new tokens only, and their order is kept."""
    return f"{_PREFIX}:chunks:{name}"


def index(tenant: str) -> str:
    """Sorted set of a tenant's session ids, as INDEX; whoever pages through it meets no other's."""
    return _of(INDEX, tenant)


def labelled(tenant: str) -> str:
    """The same of those whose last answer has a label, as LABELLED."""
    return _of(LABELLED, tenant)


def profiles(tenant: str) -> str:
    """Hash of a tenant's own profiles, as PROFILES."""
    return _of(PROFILES, tenant)


def router(router_id: str) -> str:
    """String that says, while it exists, that this router lives."""
    return f"{ROUTER_PREFIX}{router_id}"


def head(full_name: str) -> str:
    """Hash of a head NAME@VERSION: its data and what is said of it, which expire together."""
    return f"{HEAD_PREFIX}{full_name}"


def quota(key_id: str, what: str) -> str:
    """What a key took of something, as the scripts in router_svc/access/ keep it; it expires when it is past."""
    return f"{_PREFIX}:quota:{key_id}:{what}"


def _of(key: str, tenant: str) -> str:
    return f"{key}:{tenant}" if tenant else key
