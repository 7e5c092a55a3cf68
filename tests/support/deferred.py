"""A device that computes by itself, on a CPU: a thread takes the steps, so that a launch returns before its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.engine import Engine
from model_worker.engine.forward.runner import Launched, Runner
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.runner import SharedRunner

# Called in the device's thread before it computes a step of these rows; what it raises is the step's error.
Before = Callable[[Sequence[Row]], None]


class DeferredRunner(Runner):
    """A runner whose steps another thread computes, one after another; their errors come when they are waited for."""

    def __init__(self, *args: Any) -> None:
        self.before: Before = lambda rows: None
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        super().__init__(*args)

    @property
    def overlaps(self) -> bool:
        return True

    def launch(self, rows: list[Row], *, captured: bool = True) -> Launched:
        compute = super().launch

        def step() -> Launched:
            self.before(rows)
            return compute(rows, captured=captured)

        computed = self._device.submit(step)
        return Launched(lambda: self.wait(computed.result()), None, None)


class DeferredSharedRunner(DeferredRunner, SharedRunner):
    """The same for a model with shared layers."""


def defer(patch: pytest.MonkeyPatch) -> None:
    """Gives the engines that are made from now on such a device."""
    patch.setattr(Engine, "_new_runner", lambda self, loaded, told: DeferredRunner(loaded, self.limits, told))
    patch.setattr(
        SharedEngine, "_new_runner", lambda self, loaded, told: DeferredSharedRunner(loaded, self.shared, self.limits)
    )


def device_of(engine: Engine) -> DeferredRunner:
    """The device of an engine that was made so."""
    runner = engine._runner
    assert isinstance(runner, DeferredRunner)
    return runner
