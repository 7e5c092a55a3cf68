"""Commands run in this process against a fake router."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from rstitch.cli.app import app
from tests.support.fake_router import FakeRouter

# Runs `rstitch ARGS...`; the result has exit_code, stdout and stderr.
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("RSTITCH_ROUTER", raising=False)


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    with FakeRouter() as running:
        yield running


@pytest.fixture
def run(router: FakeRouter) -> Run:
    def rstitch(*args: str, input: str | None = None) -> Any:
        return CliRunner().invoke(app, args, env={"RSTITCH_ROUTER": router.address}, input=input)

    return rstitch
