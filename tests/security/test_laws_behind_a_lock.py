"""The laws, the kills among them, with certificates on every wire and keys: no other test says what a lock changes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import LAWS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def test_all_laws_hold() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not gpu and not soak",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        LAWS,
    ]
    done = subprocess.run(
        command, env=os.environ | {"RSTITCH_TEST_SECURE": "1"}, cwd=LAWS.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:]
