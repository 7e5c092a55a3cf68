"""Every Redis key of the router. Keys of one script may lie on different shards: one Redis, no cluster."""

from __future__ import annotations

_PREFIX = "rstitch"

# Sorted set of session ids by the Unix time in ms at which they last grew.
INDEX = f"{_PREFIX}:trajectories"
# Hash: profiles as JSON by name.
PROFILES = f"{_PREFIX}:profiles"
# Exists while the router of that id lives: a string that its owner renews.
ROUTER_PREFIX = f"{_PREFIX}:router:"


def trajectory(session_id: str) -> str:
    """Hash: the header of a trajectory."""
    return f"{_PREFIX}:trajectory:{session_id}"


def chunks(session_id: str) -> str:
    """Stream: one entry per chunk."""
    return f"{_PREFIX}:chunks:{session_id}"


def router(router_id: str) -> str:
    """The sign of life of a router."""
    return f"{ROUTER_PREFIX}{router_id}"
