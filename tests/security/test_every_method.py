"""Every method of every service that router and worker serve has a rule, and opens to no key but a right one."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool

from model_worker.main import start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.service.caller import Scope
from rstitch.service.methods import METHODS
from rstitch.v1 import common_pb2
from tests.support.keys import Shown, bearer, error_on, make, put, told, write
from tests.support.toy_stack import Stack


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all services that are added to any server meanwhile."""
    names: list[str] = []
    add = grpc.aio._server.Server.add_generic_rpc_handlers  # type: ignore[attr-defined]

    def noting(self: Any, handlers: Any) -> None:
        names.extend(handler.service_name() for handler in handlers)
        add(self, handlers)

    monkeypatch.setattr(grpc.aio._server.Server, "add_generic_rpc_handlers", noting)  # type: ignore[attr-defined]
    return names


def methods_of(services: list[str]) -> set[str]:
    pool = descriptor_pool.Default()
    found = [(name, pool.FindServiceByName(name)) for name in services]  # type: ignore[no-untyped-call]
    return {f"/{name}/{method.name}" for name, service in found for method in service.methods}


class Ring:
    """A key of each kind that is no good, and for each scope one that has it and one that has all others."""

    def __init__(self) -> None:
        self.only = {scope: make([scope]) for scope in Scope}
        self.all_but = {scope: make(set(Scope) - {scope}) for scope in Scope}
        self.all = make()
        past = int(time.time()) - 10
        self.expired = make(expires=past)
        self.revoked = make(revoked=past)
        self.unknown = make()  # not among `kept`

    @property
    def kept(self) -> list[Shown]:
        return [*self.only.values(), *self.all_but.values(), self.all, self.expired, self.revoked]

    @property
    def bad(self) -> dict[str, list[tuple[str, str]]]:
        good = self.all.secret
        return {
            "unknown": self.unknown.metadata,
            "expired": self.expired.metadata,
            "revoked": self.revoked.metadata,
            "another's secret": bearer(f"rstitch-{self.all.key.id}-{self.only[Scope.ADMIN].secret[25:]}"),
            "cut short": bearer(good[:-1]),
            "longer": bearer(good + "A"),
            "its id alone": bearer(self.all.key.id),
            "its digest": bearer(self.all.key.sha256),
            "empty": bearer(""),
            "another scheme": [("authorization", f"Basic {good}")],
            "no scheme": [("authorization", good)],
            "two at once": [*bearer(good), *bearer(good)],
        }


async def check_lock(address: str, ring: Ring, methods: set[str]) -> None:
    """Tries every method with no key, with every kind of bad key, and with every lack of a scope."""
    wrong: dict[tuple[str, str], Any] = {}
    denied = ("PERMISSION_DENIED", "SCOPE_MISSING")
    async with grpc.aio.insecure_channel(address) as channel:

        async def expect(method: str, what: str, metadata: Any, expected: tuple[str, str] | None) -> None:
            got = told(await error_on(channel, method, metadata))
            if got != expected:
                wrong[method, what] = got

        for method in sorted(methods):
            rule = METHODS[method]
            if rule.open:
                await expect(method, "no key", (), None)
                continue
            await expect(method, "no key", (), ("UNAUTHENTICATED", "NO_KEY"))
            for what, metadata in ring.bad.items():
                await expect(method, what, metadata, ("UNAUTHENTICATED", "BAD_KEY"))
            for scope, shown in ring.only.items():
                got = told(await error_on(channel, method, shown.metadata))
                is_right = not rule.scopes or scope in rule.scopes
                if (got == denied) == is_right or (got is not None and got[0] == "UNAUTHENTICATED"):
                    wrong[method, f"only {scope}"] = got
            if len(rule.scopes) == 1:
                (scope,) = rule.scopes
                await expect(method, f"all but {scope}", ring.all_but[scope].metadata, denied)
    assert not wrong


async def test_every_method_of_the_router(stack: Stack, services: list[str]) -> None:
    ring = Ring()
    await put(stack.redis_url, *ring.kept)
    router = await stack.router(keys="redis")
    methods = methods_of(services)
    assert "/rstitch.v1.RouterService/GetTrajectory" in methods
    assert "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" in methods
    assert methods - METHODS.keys() == set()
    await check_lock(f"127.0.0.1:{router.port}", ring, methods)


async def test_every_method_of_a_worker(model_folder: Path, services: list[str], tmp_path: Path) -> None:
    ring = Ring()
    keys_file = write(tmp_path / "keys.json", ring.kept)
    settings = WorkerSettings(
        model=str(model_folder), listen="127.0.0.1:0", dtype="float64", threads=1, keys_file=str(keys_file)
    )
    worker = await start(Role("slm", common_pb2.MODEL_SLM, WorkerSettings), settings, lambda error: None)
    try:
        methods = methods_of(services)
        assert "/rstitch.v1.WorkerService/Decode" in methods
        assert methods - METHODS.keys() == set()
        await check_lock(f"127.0.0.1:{worker.port}", ring, methods)
    finally:
        await worker.stop()


def test_the_table_has_no_method_that_nobody_serves() -> None:
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    from rstitch.v1 import router_pb2, worker_pb2

    files = (health_pb2, reflection_pb2, router_pb2, worker_pb2)
    assert METHODS.keys() == methods_of(
        [service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    )


def test_the_manual_says_what_the_table_says() -> None:
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    for scope in set(Scope) - {Scope.WORKER}:
        (row,) = re.findall(rf"^\| `{scope}` \| (.*) \|$", text, flags=re.MULTILINE)
        opened = {method.rpartition("/")[2] for method, rule in METHODS.items() if scope in rule.scopes}
        assert set(re.findall(r"`(\w+)`", row)) == opened - {"ServerReflectionInfo"}
