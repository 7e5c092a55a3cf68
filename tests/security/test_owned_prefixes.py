"""What real workers have computed for one tenant they compute anew for another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path

import pytest

from model_worker.engine.engine import Engine
from model_worker.main import Worker, start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.v1 import common_pb2
from tests.security.conftest import AsTenant
from tests.support.asking import ask_for, take, threshold
from tests.support.pairs import save_model
from tests.support.toy_stack import Stack

PROMPT = list(range(20, 60))  # two and a half pages
BY_LLM = threshold(-1.0)
ROLES = (Role("slm", common_pb2.MODEL_SLM, WorkerSettings), Role("llm", common_pb2.MODEL_LLM, WorkerSettings))


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[dict[str, Worker]]:
    """A pair in this process; afterwards it has leaked no page."""

    def on_fatal(error: BaseException) -> None:
        raise AssertionError("the engine's thread died") from error

    async with AsyncExitStack() as exits:
        made = {}
        for seed, role in enumerate(ROLES):
            model = str(save_model(tmp_path / role.name, "llama", seed))
            settings = WorkerSettings(
                model=model, listen="127.0.0.1:0", dtype="float64", threads=1, num_pages=64, measure_ms=0
            )
            made[role.name] = worker = await start(role, settings, on_fatal)
            exits.push_async_callback(worker.stop)
            exits.push_async_callback(worker.driver.ask, Engine.check_integrity)
        yield made


async def test_a_prompt_is_computed_once_a_tenant(
    stack: Stack, as_tenant: AsTenant, workers: dict[str, Worker]
) -> None:
    addresses = {name: f"127.0.0.1:{worker.port}" for name, worker in workers.items()}
    router = await stack.router(**addresses)
    # The longest names that there are: a worker takes them as they come.
    tenants, salts = ("", "a" * 64, "b" * 64), ("", "x")
    cached, written = {}, set()
    for turn, salt, tenant in product((1, 2), salts, tenants):
        session_id = f"{turn}{salt}".ljust(128, "0")
        question = ask_for(PROMPT, session_id=session_id, policy=BY_LLM, max_new_tokens=4, cache_salt=salt)
        answer = await take(await as_tenant(router, tenant), question)
        assert answer.error is None
        cached[turn, salt, tenant] = answer.finished.usage.num_cached_tokens
        written.add(tuple(answer.tokens))
    for salt, tenant in product(salts, tenants):
        # What the tenant itself had computed under the same salt, and else nothing.
        assert cached[1, salt, tenant] == 0
        assert cached[2, salt, tenant] > 0
    assert len(written) == 1
