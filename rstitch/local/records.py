"""The stacks that run on this machine, and their logs, for who did not start them: a record in each stack's folder.

It starts and stops nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PREFIX = "rstitch-"
_FILE = "stack.json"


@dataclass(frozen=True, slots=True)
class Record:
    """A stack that runs: its folder, the process that started it, the address of its router."""

    folder: Path
    pid: int
    router: str

    def write(self) -> None:
        """Puts it into the folder, whole or not at all."""
        draft = self.folder / f"{_FILE}.draft"
        draft.write_text(json.dumps({"pid": self.pid, "router": self.router}))
        draft.replace(self.folder / _FILE)

    @property
    def logs(self) -> dict[str, Path]:
        """Finds the parts' log files by the parts' names, `slm worker` among them."""
        return {path.stem.replace("-", " "): path for path in sorted(self.folder.glob("*.log"))}


def running_stacks() -> list[Record]:
    """Finds the stacks that this user runs, by their records in the folder for temporary files (TMPDIR)."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_FILE}")):
        # Others may have made a folder of this name; one that ends is removed while it is looked at.
        with contextlib.suppress(OSError, ValueError, KeyError):
            if path.stat().st_uid != os.getuid():
                continue
            told = json.loads(path.read_text())
            record = Record(path.parent, int(told["pid"]), str(told["router"]))
            os.kill(record.pid, 0)  # who was killed together with its reaper has left its folder
            found.append(record)
    return found


@dataclass(slots=True)
class LogReader:
    """Reads a log file that grows, by whole lines."""

    path: Path
    _offset: int = 0
    _rest: bytes = b""

    def new_lines(self) -> Iterator[str]:
        """Yields the lines that were completed since the last call; of a file that is gone, none."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            read = file.read()
            self._offset += len(read)
            *whole, self._rest = (self._rest + read).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
