"""Kills what a dead program left running. It does not know what it kills.

A `Reaper` starts this file as a small process beside its program, with nothing but the standard library. That process
reads lines from stdin: `+PGID` (a process group to watch), `-PGID` (gone), `dPATH` (a folder to remove). When stdin
ends, the program has ended, however it did; then the process kills the groups that are left and removes the folders.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path


class Reaper:
    """The program's side. Its process outlives the program by a moment, to kill what it left.

    Asking the kernel instead (PR_SET_PDEATHSIG) would tie a child to the thread that started it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Has this process group killed if this program ends."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """Ends the watch over a group that is gone: its number may soon be another's."""
        self._tell(f"-{group}")

    def remove(self, folder: Path) -> None:
        """Has this folder removed when this program ends."""
        self._tell(f"d{folder}")

    def close(self) -> None:
        """Does now what would be done at the program's end, and waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def main() -> None:
    """Reads lines until stdin ends, then kills and removes what is left."""
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
