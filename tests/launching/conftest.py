"""A real Redis for fleets, and Ray only where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_process import RedisProcess

pytest.importorskip("ray", reason="rstitch[ray] is not installed")


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()
