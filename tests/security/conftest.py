"""Real Redis, toy workers on a real wire, routers in this process: the fixtures of the router's own tests."""

from __future__ import annotations

from tests.router.conftest import redis_process, redis_url, stack, store

__all__ = ["redis_process", "redis_url", "stack", "store"]
