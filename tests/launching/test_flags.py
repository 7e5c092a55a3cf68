"""What `rstitch ray up` refuses before anything starts, and what it then has Ray start."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from launching.__main__ import app
from launching.flags import args_of, check_exposed, model_of
from launching.plan import Plan, Routers, Workers, check_fleet
from rstitch.errors import InvalidArgument

_NONE: dict[str, Sequence[str]] = {"slm": [], "llm": [], "router": [], "gateway": []}
_TLS = ["--tls-cert=c", "--tls-key=k"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--slm-arg=kv"], "--slm-arg: 'kv' is no flag"),
        (["--llm-arg=--worker-id=x"], "--llm-arg: --worker-id is set for each llm by itself"),
        (["--router-arg=--slm=h:1"], "--router-arg: --slm is set"),
        (["--autoscale", "slm=2"], "--autoscale"),
        (["--cpu", "--tp", "2"], "--tp: there are no cards"),
        (["--fleet", "a b"], "--fleet"),
        (["--slm-model", "./nowhere"], "--slm-model"),
        (["--redis", "redis://127.0.0.1:1/0"], "no Redis answers"),
        ([], "--slm-arg: workers and routers would be open to the network"),
        (["--slm", "0"], "--slm"),
    ],
)
def test_what_cannot_work_is_refused_by_its_flag_and_no_cluster_is_looked_for(flags: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["up", "--address", "127.0.0.1:1", *flags])
    assert result.exit_code in (1, 2)
    assert said in " ".join(result.stderr.split())
    assert "Ray cluster" not in result.stderr


def test_nothing_serves_the_network_without_a_lock() -> None:
    known = {"slm": [*_TLS, "--keys-file=f"], "llm": [*_TLS, "--tls-client-ca=a"], "router": [*_TLS, "--keys=redis"]}
    for host in ("", "0.0.0.0", "10.0.0.1"):
        check_exposed(host, {**_NONE, **known}, has_redis=True, has_gateway=False)
        for part in known:
            for less in ({part: []}, {part: _TLS}):
                with pytest.raises(InvalidArgument, match=f"--{part}-arg"):
                    check_exposed(host, {**_NONE, **known, **less}, has_redis=True, has_gateway=False)
        with pytest.raises(InvalidArgument, match="--gateway-arg"):
            check_exposed(host, {**_NONE, **known}, has_redis=True, has_gateway=True)
        with pytest.raises(InvalidArgument, match="--redis"):
            check_exposed(host, {**_NONE, **known}, has_redis=False, has_gateway=False)
        check_exposed(host, {part: ["--insecure"] for part in _NONE}, has_redis=False, has_gateway=True)
    check_exposed("127.0.0.1", _NONE, has_redis=False, has_gateway=True)


def test_what_a_part_may_be_told_is_passed_on() -> None:
    assert args_of("slm", ["--kv-tokens=8192"]) == ["--kv-tokens=8192"]
    assert model_of("slm", None) == ""
    assert model_of("slm", "owner/name") == "owner/name"
    assert model_of("slm", "/models/on/the/nodes") == "/models/on/the/nodes"
    assert model_of("slm", "models/tiny-slm").startswith("/")


def test_a_folder_without_a_model_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="--slm-model"):
        model_of("slm", "docs")


def test_secrets_are_in_no_command() -> None:
    """What a command says everybody on that machine sees."""
    plan = Plan("default", Workers("slm", ()), Workers("llm", ()), Routers((), ()), redis_password="a-secret")
    url = plan.redis_at("10.0.0.1:6379")
    assert url == "redis://:a-secret@10.0.0.1:6379/0"
    units = [plan.unit(role, 0, url) for role in ("redis", "slm", "llm", "router")]
    assert [len(unit.programs) for unit in units] == [1, 1, 1, 2]
    for unit in units:
        for program in unit.programs:
            assert not any("a-secret" in word for word in program.command), program
    assert "a-secret" not in repr(plan)


def test_a_worker_is_told_its_name_and_where_to_announce_itself() -> None:
    plan = Plan("blue", Workers("slm", ("--model", "m")), Workers("llm", (), num_cards=2), Routers())
    unit = plan.unit("llm", 3, "redis://h:1/0")
    assert (unit.id, unit.num_cards, unit.num_cpus) == ("llm-3", 2, 1)
    variables = unit.programs[0].env
    assert variables["RSTITCH_WORKER_ID"] == "llm-3"
    assert (variables["RSTITCH_REDIS"], variables["RSTITCH_FLEET"]) == ("redis://h:1/0", "blue")
    assert plan.unit("slm", 0, "redis://h:1/0").programs[0].command[:3] == ("{python}", "-m", "slm_worker")


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "ä", "a" * 65])
def test_a_fleet_has_a_name_that_can_stand_in_a_key(name: str) -> None:
    with pytest.raises(InvalidArgument, match="--fleet"):
        check_fleet(name)
