"""What a stack's processes take of a machine's cores between two looks, and what others leave. On Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from evals.bench.metered import cpu_s
from rstitch.local.stack import LocalStack

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Look:
    """Seconds so far: of a clock, of each process on a core, of all cores together in which nothing ran."""

    clock_s: float
    cpu_s: Mapping[str, float]
    idle_s: float

    @classmethod
    def at(cls, processes: Mapping[str, int]) -> Self:
        """Looks at these processes, now."""
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        idle = (int(fields[4]) + int(fields[5])) / _TICKS
        return cls(time.perf_counter(), {name: cpu_s(pid) for name, pid in processes.items()}, idle)

    def spent(self, before: Look) -> dict[str, float]:
        """Seconds that each process took since an earlier look."""
        return {name: now - before.cpu_s[name] for name, now in self.cpu_s.items()}

    def cores(self, before: Look) -> float:
        """Cores that these processes had or could have had since then: what others left."""
        used = sum(self.spent(before).values()) + self.idle_s - before.idle_s
        return used / (self.clock_s - before.clock_s)


def processes_of(stack: LocalStack) -> dict[str, int]:
    """The processes of a stack and this one, its client, by name."""
    found = {"client": os.getpid()}
    for part in stack.parts:
        pid = part.process.pid
        assert pid is not None, "it runs"
        found[part.name] = pid
    return found
