"""Starts parts of a stack again that end by themselves, after delays that grow. It does not know what the parts are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rstitch.backoff import Backoff
from rstitch.local.part import Part, StackError

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0
# A part that was ready for so long has recovered: what kills it next is something else.
_SOUND_S = 60.0

# Called with a part's name, what there is to say of it, and the end of its log where that may say why.
Say = Callable[[str, str, Sequence[str]], None]


@dataclass(slots=True)
class _Watched:
    """A part's state: it runs, it waits until `again_at` to be started, or it was started and is not ready yet."""

    backoff: Backoff = field(
        default_factory=lambda: Backoff(first_s=_FIRST_DELAY_S, max_s=_LONGEST_DELAY_S, patience_s=None)
    )
    again_at: float | None = None
    is_starting: bool = False
    sound_from: float = 0.0


class Supervisor:
    """Looks after the parts of a running stack, which may become more; `look` is to be called often."""

    def __init__(self, parts: Sequence[Part], say: Say) -> None:
        self._parts = parts
        self._say = say
        self._watched: dict[str, _Watched] = {}

    def look(self) -> None:
        """Says what has ended since the last call, and starts what is due; waits for nothing but a health check."""
        for part in self._parts:
            self._look_at(part, self._watched.setdefault(part.name, _Watched()))

    def _look_at(self, part: Part, watched: _Watched) -> None:
        now = time.monotonic()
        if watched.again_at is not None:
            if now >= watched.again_at:
                watched.again_at, watched.is_starting = None, True
                part.restart(wait=False)
            return
        try:
            if watched.is_starting:
                if part.check():
                    watched.is_starting, watched.sound_from = False, now + _SOUND_S
                    self._say(part.name, f"ready again after {part.seconds:.1f} s", [])
            elif part.process.exit_code is not None:
                part.check()
        except StackError as error:
            part.kill()  # one that was not ready in time still runs
            if not watched.is_starting and now >= watched.sound_from:
                watched.backoff.reset()
            delay_s = watched.backoff.next_s() or 0.0
            watched.again_at, watched.is_starting = now + delay_s, False
            why = str(error.args[0]).removeprefix(f"the {part.name} ").removesuffix(".")
            self._say(part.name, f"{why}; it is started again in {delay_s:.1f} s", error.log)
