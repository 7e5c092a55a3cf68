"""`rstitch certs`, as somebody runs it who tries TLS out."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstitch.authority import PARTS
from rstitch.cli.app import app


def certs(folder: Path, *args: str) -> Any:
    return CliRunner().invoke(app, ["certs", "--out", str(folder), *args])


def openssl(*args: str) -> str:
    return subprocess.run(["openssl", *args], check=True, capture_output=True, text=True).stdout


def test_makes_what_each_part_needs(tmp_path: Path) -> None:
    done = certs(tmp_path / "new", "--name", "router=gpu1.lan,worker=10.0.0.3", "--days", "2")
    assert done.exit_code == 0, done.output
    made = {path.name for path in (tmp_path / "new").iterdir()}
    assert made == {f"{name}.{ending}" for name in ("ca", *PARTS) for ending in ("pem", "key")}
    for path in (tmp_path / "new").glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ca = str(tmp_path / "new/ca.pem")
    for part in PARTS:
        openssl("verify", "-x509_strict", "-CAfile", ca, str(tmp_path / f"new/{part}.pem"))
    names = openssl("x509", "-in", str(tmp_path / "new/slm.pem"), "-noout", "-ext", "subjectAltName")
    assert {"DNS:worker", "DNS:localhost", "IP Address:127.0.0.1", "IP Address:10.0.0.3"} <= {
        name.strip() for line in names.splitlines() for name in line.split(",")
    }
    assert "DNS:gpu1.lan" in openssl("x509", "-in", str(tmp_path / "new/router.pem"), "-noout", "-text")
    # A client's certificate serves nothing.
    assert "TLS Web Server" not in openssl("x509", "-in", str(tmp_path / "new/client.pem"), "-noout", "-text")


def test_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "llm.key").write_text("mine")
    done = certs(tmp_path)
    assert done.exit_code == 2
    assert "--out" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["llm.key"]
    assert (tmp_path / "llm.key").read_text() == "mine"


def test_refuses_what_is_no_name(tmp_path: Path) -> None:
    for name in ("router", "nobody=x", "router=a b", "router=", "router=a\nDNS:b", "=x"):
        done = certs(tmp_path / "new", "--name", name)
        assert (done.exit_code, "--name" in done.output) == (2, True), name
        assert not (tmp_path / "new").exists()


def test_half_of_a_set_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake := tmp_path / "openssl").write_text('#!/bin/sh\n[ "$1" = x509 ] && { echo "no room" >&2; exit 1; }\nexit 0\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = certs(tmp_path / "new")
    assert (done.exit_code, "no room" in done.output) == (1, True)
    assert list((tmp_path / "new").iterdir()) == []


def test_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = certs(tmp_path / "new")
    assert (done.exit_code, "openssl" in done.output) == (2, True)
    assert not (tmp_path / "new").exists()
