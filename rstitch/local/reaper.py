"""Kills what a dead program left running. Runs beside it, as a file, with nothing but the standard library.

It reads lines from stdin: `+PGID` (a process group to watch), `-PGID` (gone), `dPATH` (a folder to remove). When stdin
ends, the program has ended, however it did; then it kills the groups that are left and removes the folders. It does not
know what it kills.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys


def main() -> None:
    """Watches until stdin ends."""
    groups: set[int] = set()
    folders: list[str] = []
    for line in sys.stdin:
        kind, value = line[0], line[1:].rstrip("\n")
        if kind == "+":
            groups.add(int(value))
        elif kind == "-":
            groups.discard(int(value))
        elif kind == "d":
            folders.append(value)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
