"""The folder of a run: what it is made of, what its stages have found, how long they took.

Whatever a stage's outcome depends on is in `made_of`, and a folder of something else is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rstitch.errors import invalid
from training.head.files import write_whole

_MADE_OF, _CLOCK = "made_of.json", "clock.json"


class Work:
    """A run's folder. The constructor raises RstitchError if the one that is there is of something else.

    Args:
        made_of: by words for people; anything that JSON can say.
    """

    def __init__(self, folder: Path, made_of: Mapping[str, Any]) -> None:
        self.folder = folder
        ours = json.loads(json.dumps(made_of))
        theirs = self._read(_MADE_OF, ours)
        for what in sorted(ours.keys() | theirs.keys()):
            if ours.get(what) != theirs.get(what):
                was = f"it was begun with another {what} ({_differs(theirs.get(what), ours.get(what))})."
                raise invalid("--work", f"{folder}: {was}", "Remove it, or name another folder.")
        self._write(_MADE_OF, ours)
        self._before = float(self._read(_CLOCK, 0.0))
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time that the run took so far, in all its processes; that of a killed one counts up to its last stage."""
        return self._before + time.monotonic() - self._begun

    def stage(self, name: str, make: Callable[[], Any]) -> Any:
        """Gives what a stage has found, or lets it find that: anything that JSON can say."""
        file = f"{name}.json"
        if not (self.folder / file).exists():
            self._write(file, make())
        self.tick()
        return self._read(file, None)

    def tick(self) -> None:
        """Notes the time that was taken."""
        self._write(_CLOCK, self.seconds)

    def _read(self, file: str, default: Any) -> Any:
        path = self.folder / file
        return json.loads(path.read_text()) if path.exists() else default

    def _write(self, file: str, plain: Any) -> None:
        write_whole(self.folder / file, lambda opened: opened.write((json.dumps(plain, indent=1) + "\n").encode()))


def _differs(before: Any, now: Any) -> str:
    """Says what the difference is, shortly."""
    if isinstance(before, dict) and isinstance(now, dict):
        name = min(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        return f"{name} {before.get(name)!r}, not {now.get(name)!r}"[:200]
    return f"{before!r}, not {now!r}"[:200]
