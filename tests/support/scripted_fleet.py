"""A fleet of workers without models, as `rstitch ray up` would plan it, and what is waited for in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from launching.plan import Plan, Routers, Workers
from launching.states import FleetState, UnitState

_DEADLINE_S = 60.0


def scripted_plan(fleet: str, redis_url: str, folder: Path, *, slm_cards: int = 1, llm_cards: int = 2) -> Plan:
    """A plan whose workers read their load from slm.json and llm.json in `folder`."""

    def workers(role: str, cards: int) -> Workers:
        args = ("--role", role, "--load", str(folder / f"{role}.json"))
        return Workers(role, args, "tests.support.announcing_worker", cards)

    password = "" if redis_url else "a-password"
    return Plan(
        fleet, workers("slm", slm_cards), workers("llm", llm_cards), Routers(), redis_url, password,
        listen_host="127.0.0.1",
    )  # fmt: skip


def set_load(folder: Path, role: str, **load: Any) -> None:
    """Has all workers of a role announce such figures from now on."""
    path = folder / f"{role}.json"
    path.with_suffix(".new").write_text(json.dumps(load))
    path.with_suffix(".new").replace(path)


def look_until(keeper: Any, found: Callable[[FleetState], bool]) -> FleetState:
    """Looks at a fleet until something is so; fails with the last look if it does not become so."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        state: FleetState = ray.get(keeper.look.remote())
        if found(state):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.1)


def unit(state: FleetState, unit_id: str) -> UnitState:
    return next(each for each in state.units if each.id == unit_id)


def ids(state: FleetState) -> list[str]:
    return [each.id for each in state.units]
