"""A client's key goes with every call, and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from rstitch.cli.app import app
from rstitch.client import AsyncClient, Client
from rstitch.credentials import Credentials
from rstitch.errors import RstitchError
from tests.support.fake_router import FakeRouter

KEY = "rs-hunter2-0123456789"
COMMANDS = (
    ("ask", "hello"),
    ("trajectory", "ls"),
    ("trajectory", "rm", "made-by-the-router"),
    ("profiles", "ls"),
    ("profiles", "put", "p", "threshold:tau=0.3"),
    ("heads", "ls"),
    ("health",),
)


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    with FakeRouter() as running:
        yield running


@pytest.fixture
def rstitch(router: FakeRouter, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str, **variables: str) -> Any:
        done = CliRunner().invoke(app, args, env={"RSTITCH_ROUTER": router.address, **variables})
        assert KEY not in done.output
        return done

    return run


def shown(router: FakeRouter) -> set[str | None]:
    """What every call since the last look showed."""
    assert router.calls
    found = {metadata.get("authorization") for _, metadata in router.calls}
    router.calls.clear()
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_the_key_that_it_was_given(
    router: FakeRouter, rstitch: Callable[..., Any], tmp_path: Path, command: tuple[str, ...]
) -> None:
    (file := tmp_path / "key").write_text(f"{KEY}\n")
    for run in (
        lambda: rstitch(*command, "--api-key", KEY),
        lambda: rstitch(*command, "--api-key-file", str(file)),
        lambda: rstitch(*command, RSTITCH_API_KEY=KEY),
        lambda: rstitch(*command, RSTITCH_API_KEY_FILE=str(file)),
    ):
        run()
        assert shown(router) == {f"Bearer {KEY}"}
    rstitch(*command)
    assert shown(router) == {None}


def test_health_of_any_server_is_asked_with_the_key(router: FakeRouter, rstitch: Callable[..., Any]) -> None:
    rstitch("health", "--address", router.address, "--api-key", KEY)
    assert [name for name, _ in router.calls] == ["Check"]
    assert shown(router) == {f"Bearer {KEY}"}


@pytest.mark.parametrize("command", [*COMMANDS, ("demo",)])
def test_help_does_not_show_it(rstitch: Callable[..., Any], command: tuple[str, ...]) -> None:
    words = [word for word in command[:2] if word != "hello"]
    done = rstitch(*words, "--help", RSTITCH_API_KEY=KEY)
    assert (done.exit_code, "--api-key-file" in done.output) == (0, True)


def test_programs_get_it_where_nobody_sees_it(rstitch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    class Child:
        def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
            started.append((arguments, env))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("rstitch.cli.tools.subprocess.Popen", Child)
    done = rstitch("latency", "fit", "--router", "h:1", "--api-key", KEY, "--tls-ca", "ca.pem", "--repeats", "2")
    assert done.exit_code == 0, done.output
    ((arguments, env),) = started
    assert arguments[3:] == ["evals.latency", "fit", "--router", "h:1", "--repeats", "2"]
    assert Credentials.of_environment(env) == Credentials(tls_ca="ca.pem", api_key=KEY)


@pytest.mark.parametrize("command", COMMANDS[:2])
def test_a_key_that_is_none_is_refused_unsaid(rstitch: Callable[..., Any], command: tuple[str, ...]) -> None:
    for wrong in (f"{KEY}\n", f"{KEY} x", f"{KEY}é", f"{KEY}\0"):
        done = rstitch(*command, "--api-key", wrong)
        assert (done.exit_code, done.stderr.startswith("error: --api-key: ")) == (2, True)


async def test_both_clients_show_it_and_a_new_one_once_its_file_changes(router: FakeRouter, tmp_path: Path) -> None:
    (file := tmp_path / "key").write_text(KEY)
    credentials = Credentials(api_key_file=str(file))
    with Client(router.address, credentials=credentials) as client:
        assert client.answer("hello").text
        client.status()
        assert shown(router) == {f"Bearer {KEY}"}
        file.write_text("rs-renewed")
        client.status()
        assert shown(router) == {"Bearer rs-renewed"}
    async with AsyncClient(router.address, credentials=credentials) as client:
        assert (await client.answer("hello")).text
        assert [each async for each in client.trajectories()]
        assert shown(router) == {"Bearer rs-renewed"}
        file.unlink()
        await client.status()
        assert shown(router) == {"Bearer rs-renewed"}, "the last good one"


async def test_a_call_that_goes_on_after_a_break_shows_it_again(router: FakeRouter) -> None:
    broken = iter([True])

    def break_once(number: int) -> None:
        if number == 3 and next(broken, False):
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "", "gone")

    router.before_event = break_once
    async with AsyncClient(router.address, credentials=Credentials(api_key=KEY)) as client:
        assert (await client.answer("hello")).text
    assert [name for name, _ in router.calls].count("Generate") == 2
    assert shown(router) == {f"Bearer {KEY}"}


@pytest.mark.parametrize("address", ["router.lan:50050", "10.0.0.3:50050", "[2001:db8::1]:50050"])
def test_a_key_does_not_leave_this_machine_in_clear(address: str) -> None:
    with pytest.raises(RstitchError) as refused:
        Credentials(api_key="very-secret").channel(address)
    assert (refused.value.field, "very-secret" in str(refused.value)) == ("api_key", False)
    with contextlib.closing(Credentials(api_key="very-secret", tls=True).channel(address)):
        pass
    with contextlib.closing(Credentials(api_key="very-secret").channel("localhost:1")):
        pass


def test_whether_tls_is_wanted_is_not_guessed() -> None:
    assert Credentials.of_environment({"RSTITCH_TLS": "yes"}).secure
    assert not Credentials.of_environment({"RSTITCH_TLS": "off"}).secure
    with pytest.raises(RstitchError, match="RSTITCH_TLS"):
        Credentials.of_environment({"RSTITCH_TLS": "required"})
