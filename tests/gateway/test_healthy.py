"""`python -m gateway.healthy`, by which a container says whether its gateway lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rstitch.authority import make_certificates
from rstitch.local.processes import free_port
from tests.support.fake_router import FakeRouter
from tests.support.gateways import started


def healthy(listen: str, cert: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "RSTITCH_HTTP_LISTEN": listen, "RSTITCH_HTTP_TLS_CERT": cert}
    return subprocess.run([sys.executable, "-m", "gateway.healthy"], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_it_asks_where_the_gateway_listens(router: FakeRouter, tmp_path: Path, is_tls: bool) -> None:
    make_certificates(tmp_path, {}, 1)
    listen, cert = f"{'0.0.0.0' if is_tls else '127.0.0.1'}:{free_port()}", str(tmp_path / "gateway.pem")
    flags = ["--http-listen", listen]
    if is_tls:
        flags += ["--http-tls-cert", cert, "--http-tls-key", str(tmp_path / "gateway.key")]
    with started(router.address, tmp_path, *flags, ca=str(tmp_path / "ca.pem") if is_tls else ""):
        done = healthy(listen, cert if is_tls else "")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert healthy(listen, "" if is_tls else cert).returncode == 1, "the other protocol is not answered"
    gone = healthy(listen, cert if is_tls else "")
    assert gone.returncode == 1
    assert gone.stderr.startswith("the gateway does not answer: ")
