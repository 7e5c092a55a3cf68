"""A fleet as people see it: a table, what is amiss, and where its routers are. It asks nobody."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from launching.states import FleetState, UnitState

_COLUMNS = ("id", "state", "address", "node", "cards", "running", "waiting", "sessions", "free pages", "restarts")
_NODE_CHARS = 8


def table(state: FleetState) -> Table:
    """What people are shown: a line for each unit, with what it announces where it does."""
    made = Table(*_COLUMNS, box=None, padding=(0, 2, 0, 0))
    for unit in state.units:
        addresses = ", ".join(program.address for program in unit.programs)
        said = state.announced.get(unit.id)
        load = (said.num_running, said.num_waiting, said.num_sessions, said.num_free_pages) if said else [""] * 4
        cards = f"{unit.num_cards:g}" if unit.num_cards else ""
        shown = (unit.id, word(state, unit), addresses, unit.node[:_NODE_CHARS], cards, *load, unit.num_restarts or "")
        made.add_row(*map(str, shown))
    return made


def word(state: FleetState, unit: UnitState) -> str:
    """The state of a unit in one word, by which it is shown."""
    if state.is_ready(unit):
        said = state.announced.get(unit.id)
        return "draining" if said and said.draining else "ready"
    if unit.waits_for:
        return "waiting"
    return "restarting" if unit.why else "starting"


def amiss(state: FleetState) -> list[str]:
    """Sentences about what does not work."""
    told = [f"Redis: {state.redis_error}"] if state.redis_error else []
    for unit in state.units:
        if unit.waits_for:
            told.append(f"{unit.id} waits for {unit.waits_for}.")
        elif unit.why and not state.is_ready(unit):
            told.append(f"{unit.id}: {unit.why}")
    return told


def routers(state: FleetState) -> list[str]:
    """HOST:PORT of each router, in the order of their units, whether it is ready or not."""
    return [unit.programs[0].address for unit in state.units if unit.role == "router" and unit.programs]


def gateways(state: FleetState) -> list[str]:
    """HOST:PORT of each gateway, likewise."""
    return [program.address for unit in state.units for program in unit.programs if program.name == "gateway"]


def as_json(state: FleetState) -> dict[str, Any]:
    """All that is known, for programs."""
    units = [
        asdict(unit)
        | {"state": word(state, unit), "num_restarts": unit.num_restarts}
        | {"announced": asdict(state.announced[unit.id]) if unit.id in state.announced else None}
        for unit in state.units
    ]
    return {"units": units, "redis_error": state.redis_error}
