"""Real Redis, toy workers on a real wire, routers in this process: those of the router's tests."""

from __future__ import annotations

from tests.router.conftest import redis_process, redis_url, stack

__all__ = ["redis_process", "redis_url", "stack"]
