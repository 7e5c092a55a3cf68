"""`rstitch keys`: what it changes, what it says, and that a secret is said once, alone, on stdout."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router_svc.access.__main__ import app
from rstitch.service.caller import Limits, Scope
from rstitch.service.key_file import load
from rstitch.service.keys import sha256_of


@pytest.fixture(params=["file", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.param == "file":
        return ["--file", str(tmp_path / "keys.json")]
    return ["--redis", request.getfixturevalue("redis_url")]


def run(*args: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(app, args, env={"RSTITCH_REDIS": "", "NO_COLOR": "1", "COLUMNS": "60", **(env or {})})


def added(where: list[str], *args: str) -> tuple[str, str]:
    """Id and secret of a new key."""
    done = run("add", "--tenant", "acme", "--scope", "generate,trajectories", *args, *where)
    assert done.exit_code == 0, done.stderr
    secret = done.stdout.strip()
    assert done.stdout == f"{secret}\n"
    assert secret not in done.stderr
    return secret.split("-")[1], secret


def listed(where: list[str]) -> dict[str, Any]:
    done = run("ls", "--json", *where)
    assert done.exit_code == 0, done.stderr
    return {each["id"]: each for each in map(json.loads, done.stdout.splitlines())}


def test_a_key_is_added_listed_and_revoked(where: list[str]) -> None:
    key_id, secret = added(where, "--expires", "90d", "--llm-tokens-per-minute", "1000")
    told = listed(where)[key_id]
    assert (told["tenant"], told["scopes"], told["holds"]) == ("acme", ["generate", "trajectories"], True)
    assert told["expires"] - told["created"] == 90 * 86_400
    assert told["limits"]["llm_tokens_per_minute"] == 1000
    assert run("rm", key_id, *where).exit_code == 0
    told = listed(where)[key_id]
    assert not told["holds"]
    assert abs(told["revoked"] - time.time()) < 100
    assert run("rm", "--forget", key_id, *where).exit_code == 0
    assert listed(where) == {}
    assert secret


def test_no_list_has_a_secret_or_its_digest(where: list[str]) -> None:
    key_id, secret = added(where)
    plain, as_json = run("ls", *where), run("ls", "--json", *where)
    for done in (plain, as_json):
        assert key_id in done.stdout
        for hidden in (secret, secret.split("-", 2)[2], sha256_of(secret)):
            assert hidden not in done.output
    assert "acme" in plain.stdout
    assert "never" in plain.stdout


def test_rotate_makes_a_second_live_key_of_the_same_rights(where: list[str]) -> None:
    old_id, old_secret = added(where, "--max-running", "3")
    done = run("rotate", old_id, "--grace", "12h", *where)
    assert done.exit_code == 0, done.stderr
    new_id = done.stdout.split("-")[1]
    old, new = listed(where)[old_id], listed(where)[new_id]
    assert done.stdout.strip() != old_secret
    assert old["holds"]
    assert new["holds"]
    assert {name: new[name] for name in ("tenant", "scopes", "limits")} == {
        name: old[name] for name in ("tenant", "scopes", "limits")
    }
    assert 0 < old["expires"] - time.time() <= 12 * 3600 + 1
    assert old["replaced_by"] == new_id
    assert "replaced by" in run("ls", *where).stdout
    again = run("rotate", old_id, *where)
    assert again.exit_code == 2
    assert new_id in again.stderr


def test_every_limit_has_a_flag(where: list[str]) -> None:
    names = [field.name for field in dataclasses.fields(Limits)]
    flags = [part for number, name in enumerate(names, 1) for part in (f"--{name.replace('_', '-')}", str(number))]
    key_id, _ = added(where, *flags)
    assert listed(where)[key_id]["limits"] == {name: number for number, name in enumerate(names, 1)}


@pytest.mark.parametrize("scope", list(Scope))
def test_every_scope_can_be_given(scope: str, tmp_path: Path) -> None:
    where = ["--file", str(tmp_path / "keys")]
    assert run("add", "--tenant", "acme", "--scope", scope, *where).exit_code == 0
    assert [each["scopes"] for each in listed(where).values()] == [[scope]]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["add", "--tenant", "a:b", "--scope", "generate"], "--tenant"),
        (["add", "--tenant", "", "--scope", "generate"], "--tenant"),
        (["add", "--tenant", "acme", "--scope", "root"], "generate, trajectories"),
        (["add", "--tenant", "acme", "--scope", ","], "--scope"),
        (["add", "--tenant", "acme", "--scope", "generate", "--expires", "soon"], "--expires"),
        (["add", "--tenant", "acme", "--scope", "generate", "--expires", "-1d"], "--expires"),
        (["rm", "rstitch-0123-secret"], "rstitch keys ls"),
        (["rotate", "0123456789abcdef"], "rstitch keys ls"),
        (["rotate", "0123456789abcdef", "--grace", "x"], "--grace"),
    ],
)
def test_what_cannot_be_is_refused_with_its_remedy(args: list[str], named: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    done = run(*args, "--file", str(path))
    assert (done.exit_code, done.stdout) == (2, "")
    assert named in done.stderr
    assert "rstitch-0123-secret" not in done.stderr
    assert not path.exists()


def test_where_the_keys_are_has_to_be_said() -> None:
    done = run("ls")
    assert done.exit_code == 2
    assert "--redis" in done.stderr
    assert "--file" in done.stderr


def test_a_redis_that_is_away_is_told_without_its_password() -> None:
    done = run("ls", env={"RSTITCH_REDIS": "redis://:very-secret@127.0.0.1:1/0"})
    assert done.exit_code == 1
    assert "--redis" in done.stderr
    assert "very-secret" not in done.output


def test_a_file_that_is_broken_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("{")
    done = run("add", "--tenant", "acme", "--scope", "generate", "--file", str(path))
    assert (done.exit_code, done.stdout) == (2, "")
    assert str(path) in done.stderr
    assert path.read_text() == "{"


def test_the_command_line_runs_it_and_its_secret_can_be_piped(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    command = [sys.executable, "-m", "rstitch.cli.app", "keys", "add", "--tenant", "acme", "--scope", "worker"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, "--file", str(path)], cwd=root, env=dict(os.environ), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    (key,) = load(path).values()
    assert sha256_of(done.stdout.strip()) == key.sha256
    assert path.stat().st_mode & 0o777 == 0o600
