"""The latency that a fitted model (`rstitch latency`) gives a recorded answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from evals.asking.record import Record
from evals.asking.run_file import Run, read
from evals.figures.answers import rows
from evals.figures.report import Row
from evals.latency import LatencyModel, runs_of
from rstitch.client.types import Segment, Source, SwitchReason, Trajectory, TrajectoryState
from rstitch.errors import invalid

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Algorithm 1's calls, one after the other, as the model times them: the paper's L, free of a machine's noise."""

    model: LatencyModel

    @classmethod
    def load(cls, path: Path) -> Latencies:
        """Reads the file of `rstitch latency`. Raises: RstitchError (INVALID_ARGUMENT)."""
        try:
            return cls(LatencyModel.load(path))
        except (OSError, ValueError) as error:
            raise invalid("--latency-model", f"{path}: {error}.", "Make one with `rstitch latency`.") from None

    def ms(self, record: Record) -> float | None:
        """The latency of one answer; None if it has other calls (drafts, trials), or its trace was not kept."""
        if not record.parts or record.count("draft_tokens") or record.count("trials"):
            return None
        num_prompt_tokens, runs = runs_of(trajectory_of(record))
        return self.model.trajectory_ms(num_prompt_tokens, runs)

    def mean_ms(self, records: Sequence[Record]) -> float | None:
        """The mean of many; None if it is not known of all of them."""
        known = [ms for record in records if (ms := self.ms(record)) is not None]
        return fmean(known) if known and len(known) == len(records) else None


def rows_of(files: Sequence[Path], latency_model: Path | None) -> tuple[Run, list[Row]]:
    """The files of a command as one run, and its figures, with --latency-model's. Raises: RstitchError."""
    run = read(files)
    latencies = Latencies.load(latency_model) if latency_model else None
    return run, rows(run, latencies.mean_ms if latencies else None)


def trajectory_of(record: Record) -> Trajectory:
    """The trajectory behind a record, as far as its segments go; the prompt's tokens are not known and stand as 0."""
    position = record.count("prompt_tokens")
    segments = [Segment(Source.PROMPT, 0, (0,) * position, (), "", SwitchReason.UNSPECIFIED, 0.0)]
    for part in record.parts:
        begin = position - record.count("prompt_tokens")
        tokens = record.tokens[begin : begin + part.num_tokens]
        reason = SwitchReason(part.reason) if part.reason else SwitchReason.UNSPECIFIED
        segments.append(Segment(Source(part.model), position, tokens, (), part.text, reason, part.value))
        position += part.num_tokens
    return Trajectory(
        record.session_id, TrajectoryState.FINISHED, position, 0, tuple(segments), None, None, _NEVER, _NEVER
    )
