"""What the tests of the router have, too: a real Redis, toy workers on a real wire, routers in this process."""

from __future__ import annotations

from tests.router.conftest import redis_process, redis_url, stack, store

__all__ = ["redis_process", "redis_url", "stack", "store"]
