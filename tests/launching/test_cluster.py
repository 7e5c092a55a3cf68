"""A fleet on a real Ray cluster of small nodes, with workers that have no model: placed, restarted, scaled, moved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from launching import commands, joining, placing
from launching.plan import Scaling
from launching.scaling import Bounds, Patience
from launching.states import FleetState
from rstitch.errors import FailedPrecondition
from rstitch.local.part import StackError
from tests.support.ray_cluster import node, ray_cluster
from tests.support.redis_process import RedisProcess
from tests.support.scripted_fleet import ids, look_until, scripted_plan, set_load, unit

# A node alone takes some seconds to start.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
_START_S = 120.0
_DRAIN_S = 10.0
_QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as started:
        yield started


def _start(plan: Any, counts: dict[str, int], scaling: Scaling | None = None) -> tuple[Any, FleetState]:
    state = commands.start(plan, counts, scaling or Scaling({}), _DRAIN_S, _START_S, _QUIET)
    return joining.keeper(plan.fleet), state


def _all_ready(state: FleetState) -> bool:
    return all(map(state.is_ready, state.units))


def _pid(state: FleetState, unit_id: str) -> int:
    pid = unit(state, unit_id).programs[0].pid
    assert pid is not None
    return pid


def test_a_fleet_goes_up_a_killed_worker_comes_back_and_nothing_stays_behind(tmp_path: Path) -> None:
    """With a Redis of its own, for which `ray up` needs nothing else."""
    with ray_cluster(1) as cluster, joining.joined(cluster.address, "smoke"):
        keeper, state = _start(scripted_plan("smoke", "", tmp_path), {"slm": 1, "llm": 1})
        assert ids(state) == ["slm-0", "llm-0", "redis-0"]
        assert set(state.announced) == {"slm-0", "llm-0"}
        # Cards that it may use, as Ray says them; the model of a scripted worker is that variable.
        assert len(state.announced["llm-0"].model.split(",")) == 2
        assert len(state.announced["slm-0"].model.split(",")) == 1
        assert [unit(state, each).num_cards for each in ("llm-0", "slm-0", "redis-0")] == [2, 1, 0]
        before = state.announced["slm-0"]
        os.kill(_pid(state, "slm-0"), signal.SIGKILL)
        state = look_until(keeper, lambda state: unit(state, "slm-0").num_restarts == 1 and _all_ready(state))
        assert state.announced["slm-0"].instance_id != before.instance_id
        assert state.announced["slm-0"].address == before.address
        with pytest.raises(FailedPrecondition, match="up already"):
            joining.made(scripted_plan("smoke", "", tmp_path))
        pids = [program.pid for each in state.units for program in each.programs]
        assert joining.end("smoke", _DRAIN_S) == []
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        assert placing.names("smoke") == []
        assert placing.placed("smoke") == {}
        with pytest.raises(FailedPrecondition, match="no fleet smoke"):
            joining.keeper("smoke")


@pytest.mark.soak
def test_workers_come_and_go_and_who_asked_may_leave_meanwhile(
    cluster: Any, redis_process: RedisProcess, tmp_path: Path
) -> None:
    plan = scripted_plan("scaled", redis_process.url, tmp_path, llm_cards=1)
    with joining.joined(cluster.address, "scaled"):
        _, state = _start(plan, {"slm": 1, "llm": 1})
        assert ids(state) == ["slm-0", "llm-0"]
        first = _pid(state, "slm-0")
    with joining.joined(cluster.address, "scaled"):
        keeper = joining.keeper("scaled")
        assert ray.get(keeper.scale.remote("slm", 3, _DRAIN_S)) == ["slm-1", "slm-2"]
        state = commands.wait(keeper, _START_S, _QUIET)
        assert ids(state) == ["slm-0", "slm-1", "slm-2", "llm-0"]
        assert _pid(state, "slm-0") == first
        assert len({unit(state, each).node for each in ("slm-0", "slm-1", "slm-2")}) == 2  # spread
    with joining.joined(cluster.address, "scaled"):
        keeper = joining.keeper("scaled")
        # One that does not get done in time is killed, and said to be.
        set_load(tmp_path, "slm", num_running=1)
        look_until(keeper, lambda state: state.announced["slm-1"].num_running == 1)
        assert ray.get(keeper.drain.remote(["slm-1"], 0.5)) == ["slm-1"]
        set_load(tmp_path, "slm", num_running=0)
        assert ray.get(keeper.scale.remote("slm", 1, _DRAIN_S)) == []
        state = look_until(keeper, lambda state: set(state.announced) == {"slm-0", "llm-0"})
        assert ids(state) == ["slm-0", "llm-0"]
        assert joining.end("scaled", _DRAIN_S) == []


@pytest.mark.soak
def test_what_is_lost_with_an_actor_or_a_node_comes_back_elsewhere(
    cluster: Any, redis_process: RedisProcess, tmp_path: Path
) -> None:
    with joining.joined(cluster.address, "moved"):
        keeper, state = _start(scripted_plan("moved", redis_process.url, tmp_path), {"slm": 2, "llm": 1})
        # The actor, not its program, which must not live on beside the one that follows.
        orphan = _pid(state, "slm-0")
        os.kill(_parent(orphan), signal.SIGKILL)
        state = look_until(keeper, lambda state: _all_ready(state) and _pid(state, "slm-0") != orphan)
        assert not Path(f"/proc/{orphan}").exists()
        # A node with all on it.
        head = ray.get_runtime_context().get_node_id()
        lost = next(each for each in cluster.list_all_nodes() if each.node_id != head)
        moving = [each.id for each in state.units if each.node == lost.node_id]
        assert moving
        cluster.add_node(**node())
        cluster.remove_node(lost, allow_graceful=False)
        state = look_until(
            keeper,
            lambda state: _all_ready(state) and not [each for each in state.units if each.node == lost.node_id],
        )
        assert ids(state) == ["slm-0", "slm-1", "llm-0"]
        assert joining.end("moved", _DRAIN_S) == []


@pytest.mark.soak
def test_the_roles_are_scaled_apart_by_what_their_workers_announce(
    cluster: Any, redis_process: RedisProcess, tmp_path: Path
) -> None:
    scaling = Scaling({"slm": Bounds(1, 2), "llm": Bounds(1, 1)}, Patience(num_short=2, num_idle=4), look_s=0.2)
    with joining.joined(cluster.address, "loaded"):
        set_load(tmp_path, "slm", num_running=1)
        keeper, _ = _start(scripted_plan("loaded", redis_process.url, tmp_path), {"slm": 1, "llm": 1}, scaling)
        set_load(tmp_path, "slm", num_running=1, num_waiting=3)
        set_load(tmp_path, "llm", num_running=1, num_waiting=3)  # at its bound
        look_until(keeper, lambda state: ids(state) == ["slm-0", "slm-1", "llm-0"] and _all_ready(state))
        assert ray.get(joining.scaler("loaded").last_change.remote()) == "slm: one more than 1"
        set_load(tmp_path, "slm")
        look_until(keeper, lambda state: [_role(each) for each in ids(state)] == ["slm", "llm"])
        # Without it the fleet stays as it is.
        joining.set_scaler("loaded", None, _DRAIN_S)
        assert joining.scaler("loaded") is None
        set_load(tmp_path, "llm")  # a run under way is waited for
        assert joining.end("loaded", _DRAIN_S) == []


@pytest.mark.soak
def test_what_a_worker_waits_for_is_said(cluster: Any, redis_process: RedisProcess, tmp_path: Path) -> None:
    plan = scripted_plan("large", redis_process.url, tmp_path, llm_cards=4)
    with joining.joined(cluster.address, "large"):
        with pytest.raises(StackError, match="llm-0") as raised:
            commands.start(plan, {"llm": 1}, Scaling({}), _DRAIN_S, 2, _QUIET)
        assert raised.value.log == ["llm-0 waits for 4 cards and 1 CPU on one node, which none has."]
        assert joining.end("large", _DRAIN_S) == []
    with joining.joined(cluster.address, "wrong"):
        plan = scripted_plan("wrong", redis_process.url, tmp_path)
        plan = replace(plan, slm=replace(plan.slm, module="no_such_worker"))
        with pytest.raises(StackError, match="slm-0 ends each time") as raised:
            commands.start(plan, {"slm": 1}, Scaling({}), _DRAIN_S, _START_S, _QUIET)
        assert "No module named no_such_worker" in raised.value.log[0]
        assert joining.end("wrong", _DRAIN_S) == []


def _role(unit_id: str) -> str:
    return unit_id.partition("-")[0]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
