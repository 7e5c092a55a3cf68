"""Names of every kind are refused for what they are: nothing is opened, fetched or looked up because of one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis

from router_svc.policies.heads import Heads
from rstitch.errors import NotFound
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, refused, take
from tests.support.heads import random_head
from tests.support.toy_stack import Stack

HOSTILE = (
    "../../etc/passwd", "/etc/passwd", "~", "owner/repo", "http://169.254.169.254/", "file:///etc/passwd",
    "a\0b", "a\nb", "a\r\nDEL x", "*", "{}", "{a}b", "[a]", "?", "a b", "x" * 10_000, "é", "%2e%2e", "$(id)", "\u202ea",
)  # fmt: skip
# Names of folders: no head's, but as good as any other where nothing is a folder's name.
OF_FOLDERS = ("..", ".")
_OF_HEADS = ("head", "store", "activate", "forget head")
_events: list[str] | None = None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _events is None:
        return
    if event == "open" and isinstance(args[0], str | bytes | Path):
        _events.append(f"open {args[0]!s}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        _events.append(f"{event} {args[0]}")
    elif event == "socket.connect" and args[1][0] != "127.0.0.1":
        _events.append(f"connect {args[1]}")


sys.addaudithook(_watch)


@pytest.fixture
def looked_up() -> Iterator[list[str]]:
    """Files that are opened in this process, and addresses beyond this machine, while a test runs."""
    global _events
    _events = found = []
    yield found
    _events = None


def named(name: str) -> dict[str, Any]:
    """A request for each place in which a name can come, as the method and what it is sent."""
    learned = router_pb2.Policy(learned=router_pb2.Learned(name=name))
    profile = router_pb2.Profile(name=name, policy={"slm_only": {}})
    data = random_head(8).data
    return {
        "session": ("Generate", ask_for(session_id=name)),
        "resume": ("Generate", router_pb2.GenerateRequest(session_id=name, resume_from=0)),
        "head": ("Generate", ask_for(policy=learned)),
        "version": ("Generate", ask_for(policy={"learned": {"name": f"tiny@{name}"}})),
        "profile": ("Generate", ask_for(policy={"profile": name})),
        "get": ("GetTrajectory", router_pb2.GetTrajectoryRequest(session_id=name)),
        "delete": ("DeleteTrajectory", router_pb2.DeleteTrajectoryRequest(session_id=name)),
        "label": ("LabelTrajectory", router_pb2.LabelTrajectoryRequest(session_id=name)),
        "observe": ("ObserveAnswer", router_pb2.ObserveAnswerRequest(session_id=name)),
        "page": ("ListTrajectories", router_pb2.ListTrajectoriesRequest(page_token=name)),
        "put profile": ("PutProfile", router_pb2.PutProfileRequest(profile=profile)),
        "delete profile": ("DeleteProfile", router_pb2.DeleteProfileRequest(name=name)),
        "store": ("StoreHead", router_pb2.StoreHeadRequest(name=name, data=data)),
        "activate": ("ActivateHead", router_pb2.ActivateHeadRequest(name=name, version="0")),
        "activate version": ("ActivateHead", router_pb2.ActivateHeadRequest(name="tiny", version=name)),
        "forget head": ("DeleteHead", router_pb2.DeleteHeadRequest(name=name)),
    }


async def test_no_name_reaches_files_network_or_other_keys(stack: Stack, tmp_path: Path, looked_up: list[str]) -> None:
    router = await stack.router(heads=str(tmp_path))
    stub = await stack.stub(router)
    assert (await take(stub, ask_for(session_id="mine"))).error is None

    async def one(name: str, place: str, method: str, request: Any) -> None:
        error = await refused(getattr(stub, method)(request))
        what = f"{name[:40]!r} as {place}: {error}"
        assert error.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), what
        assert error.reason != "TRANSPORT", what
        assert error.field, what
        assert len(str(error)) < 1000, what

    with redis.Redis.from_url(stack.redis_url) as client:
        before = {key for key in client.scan_iter() if b"router" not in key}
        del looked_up[:]
        for name in HOSTILE:
            await asyncio.gather(*(one(name, place, *call) for place, call in named(name).items()))
        for name in OF_FOLDERS:
            await asyncio.gather(*(one(name, place, *named(name)[place]) for place in _OF_HEADS))
        assert {key for key in client.scan_iter() if b"router" not in key} == before
    # What is imported meanwhile is the interpreter's business.
    own = (sys.base_prefix, sys.prefix, *filter(None, sys.path))
    assert not [event for event in looked_up if not event.startswith(tuple(f"open {folder}" for folder in own))]
    assert (await take(stub, ask_for())).error is None


def test_of_the_hub_only_what_is_named_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    fetched: list[str] = []
    path = tmp_path / "head.safetensors"
    path.write_bytes(random_head(8).data)

    def fetch(repository: str, _: str) -> str:
        fetched.append(repository)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    heads = Heads("", lambda: None, ["owner/repo"])
    assert heads.get("owner/repo").name == "owner/repo"
    for name in ("owner/other", "other/repo", "owner/repo2"):
        with pytest.raises(NotFound, match="--heads-from-hub"):
            heads.get(name)
    assert fetched == ["owner/repo"]
    with pytest.raises(NotFound, match="--heads-from-hub"):
        Heads("", lambda: None).get("owner/repo")
