"""The actor that scales roles by what their workers announce. What is done when is `scaling`'s to say.

Its end changes nothing but that: the fleet stays as large as it is.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from typing import Any

import ray

from launching import placing
from launching.keeper import KEEPER
from launching.plan import Scaling
from launching.scaling import Memory, step


class Scaler:
    """Looks at a fleet at a steady pace, and has its keeper add and take away workers."""

    def __init__(self, fleet: str, scaling: Scaling, within_s: float) -> None:
        self._fleet = fleet
        self._scaling = scaling
        self._within_s = within_s
        self._memory = {role: Memory() for role in scaling.bounds}
        self._last = "none yet"
        threading.Thread(target=self._run, name="looks", daemon=True).start()

    def scaling(self) -> Scaling:
        """The bounds and marks by which it adds and removes workers."""
        return self._scaling

    def last_change(self) -> str:
        """What it did last, in words."""
        return self._last

    def _run(self) -> None:
        try:
            while True:
                keeper = placing.handle(self._fleet, KEEPER)
                if keeper is not None:
                    self._look(keeper)
                time.sleep(self._scaling.look_s)
        finally:  # Ray starts it anew, with nothing remembered
            traceback.print_exc()
            os._exit(1)

    def _look(self, keeper: Any) -> None:
        try:
            state = ray.get(keeper.look.remote())
        except ray.exceptions.RayActorError:
            return  # it is started anew
        if state.redis_error:
            return  # a fleet that cannot be seen is left as it is
        for role, bounds in self._scaling.bounds.items():
            ids = {unit.id for unit in state.units if unit.role == role}
            there = [each for each in state.announced.values() if each.id in ids and not each.draining]
            self._memory[role], change = step(self._memory[role], there, len(ids), bounds, self._scaling.patience)
            if change.add:
                self._say(f"{role}: one more than {len(ids)}")
                ray.get(keeper.scale.remote(role, len(ids) + 1, self._within_s))
            elif change.remove:
                self._say(f"{role}: one less than {len(ids)}, without {change.remove}")
                keeper.drain.remote([change.remove], self._within_s)  # may take long; it does not count any more

    def _say(self, told: str) -> None:
        self._last = told
        print(told, flush=True)  # noqa: T201 - what an actor prints is its log
