"""What the router's tests have, a real worker's model, callers of several tenants, and certificates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from router_svc.main import Router
from tests.router.conftest import redis_process, redis_url, stack, store  # noqa: F401 - fixtures, the same here
from tests.support.certificates import Authority
from tests.support.pairs import save_model
from tests.support.tenants import Believing, OfTenant
from tests.support.toy_stack import Stack

AsTenant = Callable[[Router, str], Awaitable[OfTenant]]


@pytest.fixture
def as_tenant(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsTenant:  # noqa: F811 - the fixture
    """Gives a stub of a tenant to a router that is started after this."""
    monkeypatch.setattr("rstitch.service.server.ErrorInterceptor", Believing)

    async def stub(router: Router, tenant: str) -> OfTenant:
        return OfTenant(await stack.stub(router), tenant)

    return stub


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "llama", "llama", seed=0)


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.make(tmp_path_factory.mktemp("certificates") / "ours")
    made.expired()
    return made


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("certificates") / "theirs")
