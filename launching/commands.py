"""What the commands of `rstitch ray` do once their flags are read: they ask a fleet's keeper, and wait."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from rich.console import Console

from launching import joining, showing
from launching.plan import Plan, Scaling
from launching.states import FleetState
from rstitch.local.part import StackError

_LOOK_S = 0.3
# A unit that was never ready and was started again so often will not become so by itself.
_MAX_RESTARTS = 3


def start(
    plan: Plan, counts: Mapping[str, int], scaling: Scaling, within_s: float, timeout_s: float, console: Console
) -> FleetState:
    """Starts a fleet of so many units of each role, and waits until all work. Raises StackError after `timeout_s`.

    `within_s` is what workers get to drain that are taken away by `scaling`.
    """
    keeper = joining.made(plan)
    try:
        # Who needs most cards on one node comes first: others would leave a few free everywhere.
        cards = {"slm": plan.slm.num_cards, "llm": plan.llm.num_cards}
        for role, number in sorted(counts.items(), key=lambda each: -cards.get(each[0], 0)):
            ray.get(keeper.scale.remote(role, number, 0))
        state = wait(keeper, timeout_s, console)
    except StackError as error:
        error.remedy = error.remedy or "What did start is left as it is: see `rstitch ray status`, `rstitch ray down`."
        raise
    joining.set_scaler(plan.fleet, scaling, within_s)
    return state


def wait(keeper: Any, timeout_s: float, console: Console, ids: Sequence[str] | None = None) -> FleetState:
    """Waits until these units work (None: all there are), and says of each when it does. Raises StackError."""
    began, told = time.monotonic(), set[str]()
    while True:
        state: FleetState = ray.get(keeper.look.remote())
        units = [unit for unit in state.units if ids is None or unit.id in ids]
        ready = {unit.id for unit in units if state.is_ready(unit)}
        took_s = time.monotonic() - began
        for name in sorted(ready - told):
            console.print(f"{name} ready after {took_s:.1f} s", style="green", soft_wrap=True)
        told |= ready
        if len(ready) == len(units if ids is None else ids):
            return state
        for each in units:
            if each.waits_for and each.waits_for not in told:
                told.add(each.waits_for)
                console.print(f"{each.id} waits for {each.waits_for}", style="yellow", soft_wrap=True)
        for unit in units:
            if unit.id not in told and unit.num_restarts >= _MAX_RESTARTS:
                remedy = "Correct its flags (`rstitch ray down`, then up again)."
                raise StackError(f"{unit.id} ends each time it is started.", remedy=remedy, log=showing.amiss(state))
        if took_s > timeout_s:
            late = ", ".join(unit.id for unit in units if unit.id not in ready)
            raise StackError(f"not ready within {timeout_s:g} s: {late}.", log=showing.amiss(state))
        time.sleep(_LOOK_S)
