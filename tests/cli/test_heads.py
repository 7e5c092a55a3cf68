"""`rstitch heads`: what is asked for is what the router is told, and what it has is shown."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from rstitch.v1 import router_pb2 as pb
from tests.cli.conftest import Run
from tests.support.fake_router import FakeRouter


def test_heads_are_listed_as_a_table_and_as_json(run: Run, router: FakeRouter) -> None:
    assert "no heads yet" in run("heads", "ls").stdout
    router.heads = [
        pb.HeadStatus(
            name="mine", version="abc", tau=0.02, active=True, stored=True, description="of [two] minds\nand"
        ),
        pb.HeadStatus(name="mine", version="def", tau=0.03, stored=True, features=["entropy", "left"], ttl_s=90),
        pb.HeadStatus(name="old", version="fed", tau=0.5, active=True, detail="too wide"),
        pb.HeadStatus(name="bad", active=True, detail="no head"),
        pb.HeadStatus(name="stays", version="abc", tau=0.5, stored=True),
    ]
    for index in (1, -1):
        router.heads[index].updated.FromSeconds(1_000_000_000)
    put = f"{datetime.fromtimestamp(1_000_000_000):%F %T}"
    lines = [" ".join(line.split()) for line in run("heads", "ls").stdout.splitlines()[1:]]
    assert lines == [
        "mine@abc yes store 0.02 of [two] minds",
        f"mine@def store {put} 1 min 30 s 0.03 entropy left",
        "old@fed cannot be used router's folder 0.5 too wide",
        "bad cannot be used router's folder 0 no head",
        f"stays@abc store {put} stays 0.5",
    ]
    rows = [json.loads(line) for line in run("heads", "ls", "--json").stdout.splitlines()]
    assert [(row["name"], row["version"], row["stored"]) for row in rows] == [
        ("mine", "abc", True), ("mine", "def", True), ("old", "fed", False), ("bad", "", False), ("stays", "abc", True),
    ]  # fmt: skip
    assert rows[1]["features"] == ["entropy", "left"]
    assert [(row["updated"], row["ttl_s"]) for row in rows[:2]] == [(None, None), ("2001-09-09T01:46:40+00:00", 90)]


@pytest.mark.parametrize(
    ("ttl_s", "shown"),
    [(1, "1 s"), (60, "1 min"), (3600, "1 h"), (7199, "1 h 59 min"), (86_400, "1 d"), (180_001, "2 d 2 h")],
)
def test_the_time_that_a_head_has_left_is_shown_in_units_that_fit(
    run: Run, router: FakeRouter, ttl_s: int, shown: str
) -> None:
    router.heads = [pb.HeadStatus(name="mine", version="abc", tau=0.02, stored=True, ttl_s=ttl_s)]
    (line,) = run("heads", "ls").stdout.splitlines()[1:]
    assert " ".join(line.split()) == f"mine@abc store {shown} 0.02"


def test_heads_are_put_activated_rolled_back_and_removed(run: Run, router: FakeRouter, tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    file.write_bytes(b"weights")
    assert run("heads", "put", str(file), "--name", "mine").stdout == "in service: mine@abc\n"
    more = ("--inactive", "--ttl-s", "60", "--description", "for people")
    assert run("heads", "put", str(file), "--name", "mine", *more).stdout == "kept mine@abc\n"
    assert run("heads", "activate", "mine@abc").stdout == "in service: mine@abc\n"
    assert run("heads", "rollback", "mine").stdout == "in service: mine@before\n"
    assert run("heads", "rm", "mine@abc", "other").stdout == "removed mine@abc\nremoved other\n"
    assert router.head_calls == [
        pb.StoreHeadRequest(name="mine", data=b"weights"),
        pb.StoreHeadRequest(name="mine", data=b"weights", inactive=True, ttl_s=60, description="for people"),
        pb.ActivateHeadRequest(name="mine", version="abc"),
        pb.ActivateHeadRequest(name="mine"),
        pb.DeleteHeadRequest(name="mine@abc"),
        pb.DeleteHeadRequest(name="other"),
    ]


def test_what_is_no_head_is_refused_by_the_files_name(run: Run, router: FakeRouter, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_bytes(b"no head")
    refused = run("heads", "put", str(file), "--name", "mine")
    assert refused.exit_code == 2
    assert f"{file}: it cannot be used" in refused.stderr.replace("\n", "")


def test_what_cannot_be_meant_is_refused_before_the_router_is_asked(
    run: Run, router: FakeRouter, tmp_path: Path
) -> None:
    missing = run("heads", "put", str(tmp_path / "none"), "--name", "mine")
    assert missing.exit_code == 2
    assert "cannot be read" in missing.stderr
    plain = run("heads", "activate", "mine")
    assert plain.exit_code == 2
    assert "rollback mine" in plain.stderr
    assert not router.head_calls


def test_the_group_takes_no_option_that_its_commands_would_not_see(run: Run, router: FakeRouter) -> None:
    """A `--router` before the command would be lost, and the command go to another router."""
    for option in (("--router", "127.0.0.1:1"), ("--json",)):
        refused = run("heads", *option, "rm", "mine")
        assert refused.exit_code == 2
        assert "No such option" in refused.stderr
    assert not router.head_calls
    bare = run("heads")
    assert all(name in bare.output for name in ("ls", "put", "activate", "rollback", "rm"))
