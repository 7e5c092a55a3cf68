"""What a handler knows of its caller, what is read of a call that is refused, and what of all this is written down."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from router_svc.policies.heads import FILE
from rstitch.service import audit
from rstitch.service.access import AccessInterceptor
from rstitch.service.caller import ANYBODY, Caller, Limits, Scope, caller
from rstitch.service.key_file import KeyFile
from rstitch.service.logs import setup_logging
from rstitch.service.methods import Rule
from rstitch.service.server import Server
from rstitch.service.telemetry import setup_telemetry
from rstitch.v1 import router_pb2 as pb
from tests.support.keys import Shown, bearer, error_of, make, refusal, write
from tests.support.toy_stack import Stack

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
STATUS = "/rstitch.v1.RouterService/GetStatus"


class Kinds:
    """A method of each kind, which takes a note of who called and of how much it was sent."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.num_parsed = 0

    def parse(self, data: bytes) -> bytes:
        self.num_parsed += 1
        return data

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        self.callers.append(caller())
        return request

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.callers.append(caller())
        yield request

    async def stream_unary(self, requests: Any, context: Any) -> bytes:
        async for _ in requests:
            self.callers.append(caller())
        return b""

    async def stream_stream(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            self.callers.append(caller())
            yield request


@asynccontextmanager
async def serving(keys: Path | None, **how: Any) -> AsyncIterator[tuple[str, Kinds]]:
    kinds = Kinds()
    methods = {f"/test.Kinds/{kind}": Rule(frozenset({Scope.GENERATE}), changes=True) for kind in KINDS}
    access = AccessInterceptor(KeyFile(keys, "keys"), methods=methods, **how) if keys is not None else None
    server = Server("127.0.0.1:0", service_names=[], telemetry=setup_telemetry("test", None), access=access)
    handlers = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(kinds, kind), kinds.parse)
        for kind in (*KINDS, "unary_unary")
    }
    handlers["forgotten"] = handlers["unary_unary"]
    server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", handlers),))
    port = await server.start()
    try:
        yield f"127.0.0.1:{port}", kinds
    finally:
        await server.stop(0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_of_each_kind_knows_its_caller(kind: str, tmp_path: Path) -> None:
    shown = make([Scope.GENERATE], tenant="acme", limits=Limits(max_running=7))
    async with serving(write(tmp_path / "keys", [shown])) as (address, kinds):
        assert await refusal(address, f"/test.Kinds/{kind}", shown.metadata, b"hello") is None
    assert kinds.callers == [Caller("acme", shown.key.id, frozenset({Scope.GENERATE}), Limits(max_running=7))]
    assert caller() == ANYBODY


@pytest.mark.parametrize("kind", KINDS)
async def test_without_keys_everybody_is_let_in(kind: str) -> None:
    async with serving(None) as (address, kinds):
        assert await refusal(address, f"/test.Kinds/{kind}", request=b"hello") is None
    assert kinds.callers == [ANYBODY]


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_parsed_of_a_call_that_is_refused(kind: str, tmp_path: Path) -> None:
    async with serving(write(tmp_path / "keys", [])) as (address, kinds):
        for metadata, reason in (((), "NO_KEY"), (bearer("x"), "BAD_KEY")):
            got = await refusal(address, f"/test.Kinds/{kind}", metadata, b"x" * 1_000_000)
            assert got == ("UNAUTHENTICATED", reason)
    assert (kinds.num_parsed, kinds.callers) == (0, [])


async def test_a_method_without_a_rule_is_closed_to_the_best_of_keys(tmp_path: Path) -> None:
    shown = make()
    async with serving(write(tmp_path / "keys", [shown])) as (address, kinds):
        assert await refusal(address, "/test.Kinds/forgotten", shown.metadata) == ("PERMISSION_DENIED", "METHOD_CLOSED")
        assert await refusal(address, "/test.Kinds/forgotten") == ("UNAUTHENTICATED", "NO_KEY")
    assert kinds.callers == []


async def test_a_refusal_says_what_to_do_and_names_the_scope(tmp_path: Path) -> None:
    shown = make([Scope.WORKER])
    async with serving(write(tmp_path / "keys", [shown])) as (address, _):
        lacking = await error_of(address, "/test.Kinds/unary_unary", shown.metadata)
        none = await error_of(address, "/test.Kinds/unary_unary")
        bad = await error_of(address, "/test.Kinds/unary_unary", bearer("x"))
    assert lacking is not None
    assert lacking.metadata == {"scope": "generate"}
    assert "generate" in lacking.message
    for error in (lacking, none, bad):
        assert error is not None
        assert "rstitch keys" in (error.remedy or "")


async def test_bad_keys_are_refused_in_the_same_words(tmp_path: Path) -> None:
    good, expired, revoked, unknown = make(), make(expires=1), make(revoked=1), make()
    async with serving(write(tmp_path / "keys", [good, expired, revoked])) as (address, _):
        secrets = [expired.secret, revoked.secret, unknown.secret, good.secret[:-1], "x", ""]
        errors = [await error_of(address, "/test.Kinds/unary_unary", bearer(secret)) for secret in secrets]
    told = {(error.code, error.reason, error.message, error.remedy, str(error.metadata)) for error in errors if error}
    assert None not in errors
    assert len(told) == 1


async def test_a_router_tells_places_to_admins_only(stack: Stack, tmp_path: Path) -> None:
    admin, other = make([Scope.ADMIN]), make(set(Scope) - {Scope.ADMIN})
    router = await stack.router(keys=str(write(tmp_path / "keys", [admin, other])))
    stub = await stack.stub(router)
    full = await stub.GetStatus(pb.GetStatusRequest(), metadata=admin.metadata)
    less = await stub.GetStatus(pb.GetStatusRequest(), metadata=other.metadata)
    assert {worker.address for worker in full.workers} == {stack.slm.address, stack.llm.address}
    assert (less.ready, len(less.workers), less.policies) == (True, 2, full.policies)
    for place in (stack.slm.address, stack.llm.address, "toy-1", "toy-2", "cpu"):
        assert place in str(full)
        assert place not in str(less)


async def test_why_a_head_cannot_be_asked_for_is_told_to_admins_only(stack: Stack, tmp_path: Path) -> None:
    (folder := tmp_path / "heads" / "torn").mkdir(parents=True)
    (folder / FILE).write_bytes(b"no head")
    admin, other = make([Scope.ADMIN]), make([Scope.GENERATE])
    router = await stack.router(keys=str(write(tmp_path / "keys", [admin, other])), heads=str(tmp_path / "heads"))
    stub = await stack.stub(router)
    (full,) = (await stub.GetStatus(pb.GetStatusRequest(), metadata=admin.metadata)).heads
    (less,) = (await stub.GetStatus(pb.GetStatusRequest(), metadata=other.metadata)).heads
    assert "safetensors" in full.detail
    assert (less.name, "admin" in less.detail) == ("torn", True)
    assert "safetensors" not in str(less)


async def test_a_router_that_waits_tells_why_to_admins_only(stack: Stack, tmp_path: Path) -> None:
    admin, other = make([Scope.ADMIN]), make([Scope.GENERATE])
    await stack.slm.stop()
    router = await stack.router(keys=str(write(tmp_path / "keys", [admin, other])), ready=False)
    stub = await stack.stub(router)
    full = await stub.GetStatus(pb.GetStatusRequest(), metadata=admin.metadata)
    less = await stub.GetStatus(pb.GetStatusRequest(), metadata=other.metadata)
    assert not full.ready
    assert not less.ready
    assert full.detail
    assert "admin" in less.detail
    assert not [worker.detail for worker in less.workers if worker.detail]


# What is written down


async def test_the_audit_log_has_a_line_for_each_refusal_and_each_change(stack: Stack, tmp_path: Path) -> None:
    shown = make([Scope.PROFILES], tenant="acme")
    router = await stack.router(keys=str(write(tmp_path / "keys", [shown])))
    stub = await stack.stub(router)
    profile = pb.Profile(name="usual", description="a text of a tenant")
    profile.policy.threshold.tau = 0.5
    with capture_logs() as lines:
        await stub.PutProfile(pb.PutProfileRequest(profile=profile), metadata=shown.metadata)
        await stub.ListProfiles(pb.ListProfilesRequest(), metadata=shown.metadata)
        with pytest.raises(grpc.RpcError):
            await stub.DeleteProfile(pb.DeleteProfileRequest(name="none"), metadata=shown.metadata)
        with pytest.raises(grpc.RpcError):
            await stub.DeleteHead(pb.DeleteHeadRequest(name="tiny"), metadata=shown.metadata)
        with pytest.raises(grpc.RpcError):
            await stub.ListProfiles(pb.ListProfilesRequest())
    told = [
        (line["method"].rpartition("/")[2], line["code"], line.get("reason"), line.get("key_id"), line.get("tenant"))
        for line in lines
        if line["event"] == "audit"
    ]
    assert told == [
        ("PutProfile", "OK", None, shown.key.id, "acme"),
        ("DeleteProfile", "NOT_FOUND", "UNKNOWN_PROFILE", shown.key.id, "acme"),
        ("DeleteHead", "PERMISSION_DENIED", "SCOPE_MISSING", shown.key.id, "acme"),
        ("ListProfiles", "UNAUTHENTICATED", "NO_KEY", None, None),
    ]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines if line["event"] == "audit")
    assert "a text of a tenant" not in str(lines)


async def test_what_is_refused_unread_is_in_the_audit_log(stack: Stack, tmp_path: Path) -> None:
    shown = make([Scope.GENERATE], tenant="acme")
    router = await stack.router(keys=str(write(tmp_path / "keys", [shown])))
    many = pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage()] * 300_000)).SerializeToString()
    sent = {"MALFORMED_MESSAGE": b"\x12\x7f", "MESSAGE_TOO_LARGE": bytes(17 << 20), "TOO_MANY_PARTS": many}
    address, method = f"127.0.0.1:{router.port}", "/rstitch.v1.RouterService/Generate"
    with capture_logs() as lines:
        for reason, data in sent.items():
            got = await refusal(address, method, shown.metadata, data)
            assert got is not None
            assert got[1] == reason
    told = [(line["reason"], line["key_id"], line["tenant"]) for line in lines if line["event"] == "audit"]
    assert told == [(reason, shown.key.id, "acme") for reason in sent]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_audit_where_it_is_off(kind: str, tmp_path: Path) -> None:
    async with serving(write(tmp_path / "keys", []), audited=False) as (address, _):
        with capture_logs() as lines:
            assert await refusal(address, f"/test.Kinds/{kind}") is not None
    assert not lines


@pytest.fixture
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(audit, "_log", structlog.get_logger(audit.LOGGER))  # it keeps how it was set up first
    root, own = logging.getLogger(), logging.getLogger(audit.LOGGER)
    handlers, level, own_level = root.handlers[:], root.level, own.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
    own.setLevel(own_level)


async def test_the_audit_log_is_written_at_any_level_and_no_secret_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    setup_logging("router", level="error", json=True)
    good, expired = make([Scope.GENERATE]), make(expires=1)
    made: list[Shown] = [good, expired, make()]
    errors = []
    async with serving(write(tmp_path / "keys", made[:2])) as (address, _):
        for shown in made:
            errors.append(await error_of(address, "/test.Kinds/unary_unary", shown.metadata, b"x"))
            errors.append(await error_of(address, "/grpc.health.v1.Health/List", shown.metadata))
            errors.append(await error_of(address, "/test.Kinds/unary_unary", [("authorization", shown.secret)]))
    out, err = capsys.readouterr()
    assert err.count('"event": "audit"') == 9
    for shown in made:
        for part in (shown.secret, shown.secret.split("-", 2)[2], shown.key.sha256):
            assert part not in out + err
            assert part not in "".join(f"{error} {error.metadata}" for error in errors if error is not None)


async def test_the_audit_log_names_the_key_that_was_not_good(tmp_path: Path) -> None:
    revoked, admin = make(revoked=1), make([Scope.ADMIN])
    shown = {
        "revoked": revoked.secret,
        "another": f"rstitch-{'0' * 16}-x",
        "none": f"rstitch-{'Z' * 16}-x",
        "lacks": admin.secret,
    }
    async with serving(write(tmp_path / "keys", [revoked, admin])) as (address, _):
        with capture_logs() as lines:
            for secret in shown.values():
                assert await refusal(address, "/test.Kinds/unary_unary", bearer(secret)) is not None
    told = [(line.get("claimed_id"), line.get("key_id")) for line in lines]
    assert told == [(revoked.key.id, None), ("0" * 16, None), (None, None), (None, admin.key.id)]


async def test_a_call_that_is_refused_leaves_no_session(stack: Stack, tmp_path: Path) -> None:
    shown = make([Scope.TRAJECTORIES])
    router = await stack.router(keys=str(write(tmp_path / "keys", [shown])))
    stub = await stack.stub(router)
    for metadata in ((), shown.metadata):
        with pytest.raises(grpc.RpcError):
            await stub.Generate(pb.GenerateRequest(text="?", session_id="s"), metadata=metadata).read()
    listed = await stub.ListTrajectories(pb.ListTrajectoriesRequest(), metadata=shown.metadata)
    assert not listed.trajectories
    assert not stack.slm.requests
