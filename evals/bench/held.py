"""Processes held to a part of a core, so that they are what a measurement is limited by, on however few cores.

By the kernel's control groups, version 1 or 2; on Linux only, and only for who may write there (root, mostly).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

# Short, beside what an answer waits for anyway: whoever has used up its part rests until the period ends.
_PERIOD_US = 10_000
_UNIFIED = Path("/sys/fs/cgroup")
_FIRST_VERSION = _UNIFIED / "cpu"


def can_hold() -> bool:
    """Says whether this user may hold processes to a part of a core."""
    if _FIRST_VERSION.is_dir():
        return os.access(_FIRST_VERSION, os.W_OK)
    given = _UNIFIED / "cgroup.subtree_control"
    return os.access(given, os.W_OK) and "cpu" in given.read_text().split()


@contextmanager
def held(pids: Mapping[str, int], cores: float) -> Iterator[None]:
    """Lets each process have at most so many cores (0.1 or more), on average of 10 ms, where one `can_hold`."""
    quota = str(round(cores * _PERIOD_US))
    parent, limits = _UNIFIED, {"cpu.max": f"{quota} {_PERIOD_US}"}
    if _FIRST_VERSION.is_dir():
        parent, limits = _FIRST_VERSION, {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": quota}
    groups: list[Path] = []
    try:
        for name, pid in pids.items():
            group = parent / f"rstitch-{os.getpid()}-{name.replace(' ', '-')}"
            group.mkdir()
            groups.append(group)
            for file, value in limits.items():
                (group / file).write_text(value)
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for group in groups:
            for member in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    (parent / "cgroup.procs").write_text(member)
            group.rmdir()
