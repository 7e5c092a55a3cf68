"""The workers of a local stack: how many there are, and the command line of each. It starts nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rstitch.errors import invalid
from rstitch.local.options import Role, WorkerOptions
from rstitch.local.part import bundled_model, default_threads


def numbered(name: str, index: int) -> str:
    """Gives the name of a part of which there are several: the first has no number."""
    return f"{name} {index + 1}" if index else name


def device_of(options: WorkerOptions, index: int) -> str:
    """Gives the device of a role's worker number `index`: of several that are named, they take turns."""
    devices = options.device.split(",")
    return devices[index % len(devices)].strip()


@dataclass(frozen=True, slots=True)
class Crew:
    """All workers of a stack, by role. With shared layers those of the LLM are the SLM's, too."""

    options: Mapping[str, WorkerOptions]
    counts: Mapping[str, int]
    shared: bool

    @property
    def members(self) -> list[tuple[Role, int]]:
        """Gives role and number of each process, in the order of starting."""
        roles: tuple[Role, ...] = ("llm",) if self.shared else ("slm", "llm")
        return [(role, index) for role in roles for index in range(self.counts[role])]

    @property
    def is_pair(self) -> bool:
        """Whether there is one worker of a role: nobody need look for it."""
        return max(self.counts.values()) == 1

    def threads(self, role: Role) -> str:
        """Gives the CPU threads of a worker: as somebody chose, else its part of the machine's."""
        chosen = self.options[role].threads
        if chosen is None and not self.is_pair and "RSTITCH_THREADS" not in os.environ:
            chosen = max(1, (os.cpu_count() or 2) // len(self.members))
        return str(default_threads() if chosen is None else chosen)

    def model(self, role: Role) -> str:
        return self.options[role].model or bundled_model(f"tiny-{role}")

    def command(self, role: Role, index: int, address: str, shared_address: str, folder: Path) -> list[str]:
        """Gives a worker's command line, without what joins it to a fleet and locks it."""
        options, device = self.options[role], device_of(self.options[role], index)
        dtype = options.dtype or ("float32" if device == "cpu" else "auto")
        # fmt: off
        return [sys.executable, "-m", f"{role}_worker", "--model", self.model(role), "--listen", address,
                "--device", device, "--dtype", dtype, "--threads", self.threads(role),
                *(["--shared-listen", shared_address] if self.shared else []),
                *(["--batch-invariant"] if options.batch_invariant else []),
                *self.sharing_args(role, index, folder), *self.cores_args(role, folder)]
        # fmt: on

    def sharing_args(self, role: Role, index: int, folder: Path) -> list[str]:
        """Lets two models on one GPU know of each other: caches of as many tokens, steps in turns.

        Raises: RstitchError where a GPU would have three workers, or two of one role.
        """
        own = _named(device_of(self.options[role], index))
        if own == "cpu" or self.shared:
            return []
        there = [other for other, number in self.members if _named(device_of(self.options[other], number)) == own]
        if there == [role]:
            return []
        if sorted(there) != ["llm", "slm"]:
            what = f"{own} would have {len(there)} workers: {', '.join(there)}."
            remedy = f"Name a device for each, with commas, such as --{role}-device cuda:0,cuda:1."
            raise invalid("--device", what, remedy)
        other: Role = "llm" if role == "slm" else "slm"
        name = "device" if self.is_pair else f"device-{own.partition(':')[2]}"
        return ["--beside", self.model(other), "--share-device", str(folder / name)]

    def cores_args(self, role: Role, folder: Path) -> list[str]:
        """Lets a worker on the CPU take the cores that the other leaves idle, unless somebody chose its threads.

        Of more than two it is not known who rests.
        """
        options = self.options[role]
        chosen = options.threads is not None or "RSTITCH_THREADS" in os.environ
        return [] if chosen or options.device != "cpu" or not self.is_pair else ["--share-cores", str(folder / "cores")]

    def metrics_ports(self, first: int | None, num_routers: int) -> dict[str, int]:
        """Gives the ports where parts are scraped, by name: those that each stack has come first."""
        if first is None:
            return {}
        names = ["router", "slm worker", "llm worker"]
        names += [numbered(f"{role} worker", index) for role, index in self.members if index]
        names += [numbered("router", index) for index in range(1, num_routers)]
        return {name: first + offset for offset, name in enumerate(names)}

    def joining_args(self, role: Role, index: int, fleet: str) -> list[str]:
        """Lets routers find a worker where they must look for it, with Redis' URL in its environment; else names it."""
        named = ["--worker-id", f"{role}-{index}"]
        return named if self.is_pair else [*named, "--fleet", fleet]


def _named(device: str) -> str:
    return "cuda:0" if device == "cuda" else device
