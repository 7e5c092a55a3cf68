"""The laws, what is promised of HTTP, and of locks, where each stack has two workers of each model and two routers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import LAWS
from tests.support.several import FLEET

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(FLEET, reason="this is that run"),
]


def test_all_hold() -> None:
    folders = [LAWS, LAWS.parent / "gateway", LAWS.parent / "security"]
    # fmt: off
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-m", "not gpu and not soak", "-n", "2",
               "--dist", "loadgroup", *map(str, folders)]
    # fmt: on
    env = os.environ | {"RSTITCH_TEST_FLEET": "1"}
    done = subprocess.run(command, env=env, cwd=LAWS.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:]
