"""The kinds of Redis that a test runs on: one server, a primary that a Sentinel names, a cluster."""

from __future__ import annotations

import pytest
import redis

KINDS = ("one", "sentinel", "cluster")


def flushed_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty Redis of the kind that the test's parameter names."""
    kind = request.param
    if kind == "cluster":
        cluster = request.getfixturevalue("cluster_redis")
        cluster.flush()
        return str(cluster.url)
    if kind == "sentinel":
        sentinel = request.getfixturevalue("sentinel_redis")
        with redis.Redis(port=sentinel.primary.port) as client:
            client.flushall()
        return str(sentinel.url)
    process = request.getfixturevalue("redis_process")
    process.start()
    with redis.Redis(port=process.port) as client:
        client.flushall()
    return str(process.url)
