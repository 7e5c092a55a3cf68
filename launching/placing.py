"""Units as Ray has them: an actor each, in a placement group of its own. It knows no Redis and asks no actor.

A group is a worker's cards, all on one node, and stays the worker's while that is started again; where the node is
lost, Ray places the group elsewhere. Groups know nothing of one another: that workers are spread over the nodes is a
wish told to Ray for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util import list_named_actors, placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import get_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from launching.host import Host
from launching.plan import Unit

_HEAD = "node:__internal_head__"  # a resource that the head's node has one of
_CALLS = 4  # at once to an actor: one may drain while others look
_PLACING_S = 1  # one for which there is room is placed in milliseconds
# Detached: they outlive the program that made them. -1: Ray starts them anew without end.
_LASTING: dict[str, Any] = {"lifetime": "detached", "max_restarts": -1}
# For an actor that is asked by people: it is lost with the cluster only.
ON_HEAD: dict[str, Any] = {**_LASTING, "num_cpus": 0, "resources": {_HEAD: 0.001}}


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a unit's placement group is."""

    node: str  # id in Ray; "": not yet, or not any more
    resources: Mapping[str, float]
    is_infeasible: bool  # no node has so much at all


def namespace(fleet: str) -> str:
    """The namespace of a fleet's actors."""
    return f"rstitch-{fleet}"


def names(fleet: str) -> list[str]:
    """Names of a fleet's living actors, also of those that Ray has not placed yet."""
    known = list_named_actors(all_namespaces=True)
    return sorted(each["name"] for each in known if each["namespace"] == namespace(fleet))


def handle(fleet: str, name: str) -> ActorHandle[Any] | None:
    """The actor of that name; None where there is none."""
    try:
        return ray.get_actor(name, namespace=namespace(fleet))
    except ValueError:
        return None


def place(fleet: str, unit: Unit) -> None:
    """Has Ray place a unit and returns at once. Raises ValueError if there is one of its id."""
    wanted = {"CPU": float(unit.num_cpus), "GPU": float(unit.num_cards)}
    resources = {name: amount for name, amount in wanted.items() if amount}
    bundle = {**resources, **({_HEAD: 0.001} if unit.on_head else {})}
    if handle(fleet, unit.id) is not None:
        raise ValueError(f"there is an actor {unit.id}")
    # Private, as Ray has no other wish between a must and nothing; without it groups are packed onto few nodes.
    wish: Any = None if unit.on_head else _emptiest_node(fleet, resources)
    group = placement_group(
        [bundle], "STRICT_PACK", name=_group(fleet, unit.id), lifetime="detached", _soft_target_node_id=wish
    )
    group.wait(_PLACING_S)  # so that the next unit's wish knows of this one
    ray.remote(Host).options(
        name=unit.id,
        namespace=namespace(fleet),
        num_cpus=unit.num_cpus,
        num_gpus=unit.num_cards,
        max_concurrency=_CALLS,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0),
        **_LASTING,
    ).remote(unit)


def remove(fleet: str, unit_id: str) -> None:
    """Ends a unit's actor at once, and gives its cards back."""
    actor = handle(fleet, unit_id)
    if actor is not None:
        ray.kill(actor, no_restart=True)
    remove_group(fleet, unit_id)


def remove_group(fleet: str, unit_id: str) -> None:
    """Gives the cards of a unit back."""
    if unit_id in placed(fleet):
        remove_placement_group(get_placement_group(_group(fleet, unit_id)))


def placed(fleet: str) -> dict[str, Placed]:
    """Where the groups of a fleet's units are, by unit id."""
    found = {}
    for group in placement_group_table().values():
        before, _, unit_id = group["name"].rpartition("/")
        if f"{before}/" == _group(fleet, "") and group["state"] != "REMOVED":
            node = group["bundles_to_node_id"][0] if group["state"] == "CREATED" else ""
            infeasible = group["stats"]["scheduling_state"] == "INFEASIBLE"
            found[unit_id] = Placed(node, group["bundles"][0], infeasible)
    return found


def nodes() -> dict[str, dict[str, Any]]:
    """Living nodes by id, as Ray tells of them."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def _emptiest_node(fleet: str, resources: Mapping[str, float]) -> str | None:
    """The node that could hold so much and has the fewest cards (or cores) taken by this fleet; None where none could.

    What others than this fleet have taken there Ray knows best: it places elsewhere if there is no room.
    """
    kind = "GPU" if "GPU" in resources else "CPU"
    taken = dict.fromkeys(_able(resources), 0.0)
    for each in placed(fleet).values():
        if each.node in taken:
            taken[each.node] += each.resources.get(kind, 0.0)
    return min(taken, key=lambda node: (taken[node], node), default=None)


def _able(resources: Mapping[str, float]) -> Iterable[str]:
    for node, facts in nodes().items():
        if all(facts["Resources"].get(name, 0.0) >= amount for name, amount in resources.items()):
            yield node


def lacking(unit: Placed) -> str:
    """What a unit waits for that is not placed, in words."""
    cards, cores = unit.resources.get("GPU", 0.0), unit.resources.get("CPU", 0.0)
    what = [f"{math.ceil(cards)} cards" if cards > 1 else "a card"] if cards else []
    wanted = " and ".join([*what, f"{cores:g} CPU"])
    return f"{wanted} on one node, which none has" if unit.is_infeasible else f"{wanted} free on one node"


def _group(fleet: str, unit_id: str) -> str:
    return f"{namespace(fleet)}/{unit_id}"
