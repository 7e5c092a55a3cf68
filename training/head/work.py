"""The folder of a run: what it is made of, what its stages have found, how long they took.

Whatever a stage's outcome depends on is in `made_of`, and a folder of something else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rstitch.errors import invalid
from training.head.effort import Clock
from training.head.files import write_whole

_MADE_OF = "made_of.json"


class Work:
    """A run's folder. The constructor raises RstitchError if the one that is there is of something else.

    Args:
        made_of: by words for people; anything that JSON can say.
    """

    def __init__(self, folder: Path, made_of: Mapping[str, Any]) -> None:
        self.folder = folder
        self._write(_MADE_OF, refuse_another(folder, made_of))
        self.clock = Clock(folder / "clock.json")

    def settle(self, what: str, value: Any) -> None:
        """Adds what only the stages from now on depend on. Raises RstitchError if the folder was settled otherwise."""
        theirs, value = self._read(_MADE_OF, {}), json.loads(json.dumps(value))
        if what in theirs:
            _compare(self.folder, theirs, what, value)
        self._write(_MADE_OF, theirs | {what: value})

    def begin_anew(self, *stages: str) -> None:
        """Forgets these stages and what the folder is made of: its first checks refused it, so it may be of another."""
        for name in ("made_of", *stages):
            (self.folder / f"{name}.json").unlink(missing_ok=True)

    def stage(self, name: str, make: Callable[[], Any]) -> Any:
        """Gives what a stage has found, or lets it find that: anything that JSON can say."""
        file = f"{name}.json"
        if not (self.folder / file).exists():
            self._write(file, make())
        self.clock.tick()
        return self._read(file, None)

    def _read(self, file: str, default: Any) -> Any:
        return _read(self.folder / file, default)

    def _write(self, file: str, plain: Any) -> None:
        write_whole(self.folder / file, lambda opened: opened.write((json.dumps(plain, indent=1) + "\n").encode()))


def refuse_another(folder: Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """Gives all that a folder is made of, what is told here included. Raises RstitchError if that is something else.

    Args:
        made_of: as that of `Work`, or a part of it: what is known already.
    """
    ours: dict[str, Any] = json.loads(json.dumps(made_of))
    theirs: dict[str, Any] = _read(folder / _MADE_OF, {})
    for what in sorted(ours):
        _compare(folder, theirs, what, ours[what])
    return theirs | ours


def _compare(folder: Path, theirs: Mapping[str, Any], what: str, ours: Any) -> None:
    if theirs and ours != theirs.get(what):
        was = f"it was begun with another {what} ({_differs(theirs.get(what), ours)})."
        raise invalid("--work", f"{folder}: {was}", "Remove it, or name another folder.")


def _read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def _differs(before: Any, now: Any) -> str:
    """Says what the difference is, shortly."""
    if isinstance(before, dict) and isinstance(now, dict):
        name = min(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        return f"{name} {before.get(name)!r}, not {now.get(name)!r}"[:200]
    return f"{before!r}, not {now!r}"[:200]
