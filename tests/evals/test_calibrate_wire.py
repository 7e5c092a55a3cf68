"""`rstitch calibrate` on a running stack: from questions to a profile that answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evals.calibrate import knobs
from evals.calibrate.__main__ import main
from evals.figures.intervals import Interval
from rstitch.client.aio import AsyncClient
from rstitch.client.sync import Client
from rstitch.client.types import Learned, Profile, Signal, Status, Threshold
from rstitch.local.stack import LocalStack
from tests.support.fake_router import FakeRouter


def calibrate(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object], str]:
    code = main(["--json", *arguments])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err.replace("\n", " ")


def test_a_share_becomes_a_profile_that_answers(
    tiny_stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--router", tiny_stack.router_address, "--data", "tiny:calibration", "--n", "8", "--signal", "margin"]
    flags += ["--max-new-tokens", "48", "--cache", str(tmp_path / "cache.jsonl"), "--llm-share", "10%"]
    with Client(tiny_stack.router_address) as client:
        before = {each.session_id for each in client.trajectories()}
    code, made, _ = calibrate(capsys, *flags, "--name", "cheap", "--force")
    assert code in (0, 3)  # whether the check landed is a matter of chance
    assert (made["num_calibrated"], made["num_checked"], made["profile"]) == (4, 4, "cheap")
    policy = Threshold(float(str(made["tau"])), signal=Signal.MARGIN)
    with Client(tiny_stack.router_address) as client:
        (kept,) = client.profiles()
        first = kept.description.partition("\n")[0]
        assert "fresh questions the LLM share will be between" in first
        assert f"checked: {made['checked']:.1%}, {'within' if made['landed'] else 'OUTSIDE'}" in first
        assert isinstance(kept.policy, Threshold)
        assert (kept.policy.tau, kept.policy.signal) == (policy.tau, policy.signal)
        named = client.answer("2+2", policy=Profile("cheap"), max_new_tokens=8)
        assert named.finished.profile == "cheap"
        assert named.tokens == client.answer("2+2", policy=policy, max_new_tokens=8).tokens
        after = {each.session_id for each in client.trajectories()}
        assert len(after - before) == 2, "those of the calibration are gone"
    asked = len((tmp_path / "cache.jsonl").read_text().splitlines())
    assert calibrate(capsys, *flags)[1]["tau"] == made["tau"]
    assert len((tmp_path / "cache.jsonl").read_text().splitlines()) == asked


def test_a_head_is_calibrated_as_the_version_in_service(
    tiny_stack: LocalStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put under its name later is another head, of which nothing was stated.

    It takes no status that lists the head, which lists none of the hub, and none of the store while Redis is slow.
    """
    status = AsyncClient.status

    async def without_heads(client: AsyncClient) -> Status:
        return replace(await status(client), heads=())

    monkeypatch.setattr(AsyncClient, "status", without_heads)
    monkeypatch.setattr(knobs, "_COARSE_PRICES", (0.5, 2.0))
    flags = ["--router", tiny_stack.router_address, "--data", "tiny:calibration", "-n", "4", "--policy", "learned:tiny"]
    flags += ["--max-new-tokens", "8", "--max-loss", "60%", "--name", "head", "--force"]
    code, made, _ = calibrate(capsys, *flags)
    assert code in (0, 3)
    with Client(tiny_stack.router_address) as client:
        (name,) = [head.full_name for head in client.status().heads if head.name == "tiny" and head.active]
        (kept,) = [profile for profile in client.profiles() if profile.name == "head"]
        assert "the loss is below 60.0%" in kept.description
        assert kept.policy == Learned(name, price=float(str(made["price"])))
        answer = client.answer("2+2", policy=Profile("head"), max_new_tokens=8)
        assert isinstance(answer.finished.policy, Learned)
        assert answer.finished.policy.name == name


def test_a_head_of_which_no_version_is_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRouter() as router:  # its answers do not say by which policy they are
        flags = ["--router", router.address, "--data", "tiny:calibration", "--n", "4", "--llm-share", "0.1"]
        code, _, err = calibrate(capsys, *flags, "--policy", "learned:mine")
    assert code == 2
    assert "--policy: the router does not say which version of the head mine it asks" in err
    assert "learned:NAME@VERSION" in err


def test_a_profile_whose_check_fails_is_not_kept_unless_forced(
    tiny_stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interval, "holds", lambda interval, value: False)
    flags = ["--router", tiny_stack.router_address, "--data", "tiny:calibration", "--n", "4", "--max-new-tokens", "16"]
    flags += ["--llm-share", "10%", "--cache", str(tmp_path / "cache.jsonl"), "--name", "outside"]
    with Client(tiny_stack.router_address) as client:

        def names() -> set[str]:
            return {kept.name for kept in client.profiles()}

        code, made, err = calibrate(capsys, *flags)
        assert (code, made["landed"], made["profile"]) == (3, False, "")
        assert "NOT kept as profile outside" in err
        assert "--force" in err
        assert "outside" not in names()
        code, made, err = calibrate(capsys, *flags, "--force")
        assert (code, made["profile"]) == (3, "outside")
        assert "outside" in names()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--data", "tiny:calibration", "--llm-share", "0.1", "--slm-model", "/nope"],
            "--slm-model: a router that runs",
        ),
        (["repeat", "--llm-arg=--kv-tokens=9"], "--llm-arg: a router that runs is asked (127.0.0.1:1)"),
        (["--data", "tiny:calibration"], "--llm-share: there is no goal"),
        (["--llm-share", "0.1"], "--data: there is none"),
        (["--data", "tiny:calibration", "--llm-share", "2"], "--llm-share: 2.0 is no share"),
        (["--data", "tiny:calibration", "--llm-share", "0.1", "--policy", "llm_only"], "--policy: llm_only cannot"),
        (["--data", "tiny:calibration", "--max-loss", "1%"], "no loss below 2.6% can be shown"),
        (["--data", "nowhere.jsonl", "--llm-share", "0.1"], "nowhere.jsonl: No such file"),
        (["--data", "tiny:calibration", "--llm-share", "0.1", "--latency-model", "no.json"], "no.json"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = calibrate(capsys, "--router", "127.0.0.1:1", *arguments)
    assert code == 2
    assert said in err
