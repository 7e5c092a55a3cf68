"""What a run has taken in all its processes: time, and of that the time of waiting for answers. Kept in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

from training.head.files import write_whole

_TICK_S = 5.0  # at least between two notes while answers come


@dataclass(frozen=True, slots=True)
class Effort:
    """What a run took.

    Attributes:
        num_rollouts, rollouts_s: answers that were asked for and came, and how long they were waited for.
    """

    seconds: float = 0.0
    num_rollouts: int = 0
    rollouts_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second of waiting; 0 before the first."""
        return self.num_rollouts / self.rollouts_s if self.rollouts_s else 0.0

    @property
    def beside_s(self) -> float:
        """The time in which no answer was waited for."""
        return self.seconds - self.rollouts_s

    def text(self) -> str:
        """Tells in one sentence how long the run took and what for."""
        if not self.rollouts_s:
            return f"{minutes(self.seconds)} minutes."
        waited = f"{minutes(self.rollouts_s)} waiting for {self.num_rollouts:,} answers"
        return f"{minutes(self.seconds)} minutes; of them {waited} ({self.rate:.1f} a second); the rest is learning."


class Clock:
    """Times a run. What a killed process took counts up to its last tick, answers and time alike.

    Args:
        path: of the file, which has the effort of the processes before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = Effort(**json.loads(path.read_text())) if path.exists() else Effort()
        self._num_rollouts = 0
        self._rollouts_s = 0.0
        self._began = self._ticked = monotonic()
        self._waits_since: float | None = None

    @property
    def effort(self) -> Effort:
        """What the run took so far, a wait under way included."""
        now, before = monotonic(), self._before
        waits_s = 0.0 if self._waits_since is None else now - self._waits_since
        return Effort(
            before.seconds + now - self._began,
            before.num_rollouts + self._num_rollouts,
            before.rollouts_s + self._rollouts_s + waits_s,
        )

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block's time as that of waiting for answers, each of which is told to `answered`."""
        self._waits_since = monotonic()
        try:
            yield
        finally:
            self._rollouts_s += monotonic() - self._waits_since
            self._waits_since = None
            self.tick()

    def answered(self) -> None:
        """Counts an answer that was waited for."""
        self._num_rollouts += 1
        if monotonic() - self._ticked >= _TICK_S:
            self.tick()

    def tick(self) -> None:
        """Notes what the run took so far."""
        self._ticked = monotonic()
        write_whole(self._path, lambda file: file.write(json.dumps(asdict(self.effort)).encode()))


def minutes(seconds: float) -> str:
    """Writes seconds as minutes, to a tenth: of a short run, whole ones would contradict one another."""
    return f"{round(seconds / 60, 1):g}"
