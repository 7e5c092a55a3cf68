"""`rstitch profiles`: what is kept is what was said, and what is missing is named."""

from __future__ import annotations

import json

from tests.cli.conftest import Run
from tests.support.fake_router import FakeRouter


def test_profiles_are_put_listed_shown_and_removed(run: Run, router: FakeRouter) -> None:
    assert "no profiles yet" in run("profiles", "ls").stdout
    put = run("profiles", "put", "fast", "threshold:tau=0.05+budget:llm_tokens=9", "--description", "for people")
    assert put.exit_code == 0, put.stderr
    assert router.profiles["fast"].policy.threshold.tau == 0.05
    assert router.profiles["fast"].budget.llm_tokens == 9
    listed = run("profiles", "ls").stdout
    assert "threshold:tau=0.05+budget:llm_tokens=9" in listed
    assert "for people" in run("profiles", "show", "fast").stdout
    (line,) = run("profiles", "ls", "--json").stdout.splitlines()
    assert json.loads(line)["name"] == "fast"
    assert run("profiles", "rm", "fast").exit_code == 0
    assert router.profiles == {}


def test_ask_takes_a_profile(run: Run, router: FakeRouter) -> None:
    assert run("ask", "What?", "--policy", "profile:fast").exit_code == 0
    assert router.questions[-1].policy.profile == "fast"


def test_an_unknown_profile_is_named_with_those_that_there_are(run: Run) -> None:
    shown = run("profiles", "show", "fast")
    assert shown.exit_code == 2
    assert "no profile fast. There are none." in shown.stderr
    run("profiles", "put", "slow", "llm_only")
    assert "There are slow." in run("profiles", "show", "fast").stderr
