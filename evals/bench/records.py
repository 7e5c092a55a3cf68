"""What was measured, answer by answer, and the figures of many answers. It knows no system, no load and no table.

Words as guidellm and aiperf use them: TTFT, the time to the first token; TPOT, the time per output token after the
first (the mean inter-token latency); latency, end to end as the client saw it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from evals.figures.statistics import paired_difference, paired_ratio, wilson

Row = dict[str, Any]

# Where an answer's time can go. `background` runs beside the answer, `client` is what the router did not see of it.
PARTS = (
    "slm_forward", "llm_forward", "scheduling", "waiting", "transport", "store", "routing", "client", "background",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """One answer.

    Attributes:
        system: who gave it.
        block: answers of one system under one load that ran together; `start_s` and `end_s` count from its begin.
        problem: its number; records of two systems pair by it.
        start_s: when it was asked, or, with arrivals, when it was to be asked.
        parts_us: where its time went, by name of PARTS; empty if the system does not say.
    """

    system: str
    block: int
    problem: int
    start_s: float
    end_s: float
    ttft_ms: float
    correct: bool
    num_slm_tokens: int
    num_llm_tokens: int
    num_switches: int = 0
    num_discarded: int = 0
    parts_us: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer: the length of the trace."""
        return self.num_slm_tokens + self.num_llm_tokens

    @property
    def latency_ms(self) -> float:
        """From the question to the end of the answer."""
        return 1000 * (self.end_s - self.start_s)

    @property
    def tpot_ms(self) -> float:
        """Per token after the first; 0 if there is none."""
        return (self.latency_ms - self.ttft_ms) / max(1, self.num_tokens - 1) if self.num_tokens > 1 else 0.0


def by_problem(records: Iterable[Record]) -> list[Record]:
    """In the order in which two systems pair."""
    return sorted(records, key=lambda record: record.problem)


def wall_s(records: Sequence[Record]) -> float:
    """The time that the blocks of these answers took, one after the other."""
    ends: dict[int, float] = {}
    for record in records:
        ends[record.block] = max(ends.get(record.block, 0.0), record.end_s)
    return sum(ends.values())


def quality(records: Sequence[Record], baseline: Sequence[Record]) -> Row:
    """Accuracy with its interval, tokens, and the speed-up over the baseline split into its two causes.

    Both of the same problems, in the same order. `speed_up` = `shorter` (fewer tokens) x `cheaper` (less time a token).
    """
    n = len(records)
    right = [record.correct for record in records]
    low, high = wilson(sum(right), n)
    difference, difference_low, difference_high = paired_difference(right, [record.correct for record in baseline])
    latencies, theirs = ([record.latency_ms for record in chosen] for chosen in (records, baseline))
    speed_up, speed_up_low, speed_up_high = paired_ratio(theirs, latencies)
    tokens = fmean(record.num_tokens for record in records)
    shorter = fmean(record.num_tokens for record in baseline) / tokens
    return {
        "n": n,
        "accuracy": sum(right) / n,
        "accuracy_low": low,
        "accuracy_high": high,
        "difference": difference,
        "difference_low": difference_low,
        "difference_high": difference_high,
        "tokens": tokens,
        "slm_tokens": fmean(record.num_slm_tokens for record in records),
        "llm_tokens": fmean(record.num_llm_tokens for record in records),
        "llm_share": sum(record.num_llm_tokens for record in records) / sum(record.num_tokens for record in records),
        "switches": fmean(record.num_switches for record in records),
        "discarded": fmean(record.num_discarded for record in records),
        "latency_ms": fmean(latencies),
        "latency_p50_ms": percentile(latencies, 50),
        "ttft_p50_ms": percentile([record.ttft_ms for record in records], 50),
        "speed_up": speed_up,
        "speed_up_low": speed_up_low,
        "speed_up_high": speed_up_high,
        "shorter": shorter,
        "cheaper": speed_up / shorter,
    }


def speed(records: Sequence[Record], baseline: Sequence[Record]) -> Row:
    """Percentiles of the times, throughput, and the throughput over the baseline's."""
    row: Row = {}
    for name in ("latency", "ttft", "tpot"):
        values = [getattr(record, f"{name}_ms") for record in records]
        row |= {f"{name}_p{q}_ms": percentile(values, q) for q in (50, 90, 99)}
    theirs = [record.latency_ms for record in baseline]
    row["speed_up_p50"] = percentile(theirs, 50) / row["latency_p50_ms"]
    row |= throughput(records)
    base = throughput(baseline)
    row["requests_ratio"] = row["requests_per_s"] / base["requests_per_s"]
    row["tokens_ratio"] = row["output_tokens_per_s"] / base["output_tokens_per_s"]
    return row


def throughput(records: Sequence[Record]) -> Row:
    """Answers and output tokens a second."""
    seconds = wall_s(records)
    return {
        "wall_s": seconds,
        "requests_per_s": len(records) / seconds,
        "output_tokens_per_s": sum(record.num_tokens for record in records) / seconds,
    }


def parts(records: Sequence[Record]) -> Row:
    """Milliseconds per token by place: the `total` is the mean latency; empty if the system does not say."""
    told = [record for record in records if record.parts_us]
    if not told:
        return {}
    tokens = sum(record.num_tokens for record in told)
    row: Row = {part: sum(record.parts_us.get(part, 0) for record in told) / 1000 / tokens for part in PARTS}
    row["total"] = sum(record.latency_ms for record in told) / tokens
    return row


def variation(records: Sequence[Record], varied: Sequence[Record]) -> Row:
    """What other settings make of a system: a ratio of latencies, milliseconds per token, a ratio of throughputs."""
    ours, theirs = ([record.latency_ms for record in chosen] for chosen in (records, varied))
    ratio, low, high = paired_ratio(ours, theirs)
    return {
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "median_ratio": percentile([a / b for a, b in zip(ours, theirs, strict=True)], 50),
        "per_token_ms": (sum(ours) - sum(theirs)) / sum(record.num_tokens for record in varied),
        "variation_requests_ratio": throughput(records)["requests_per_s"] / throughput(varied)["requests_per_s"],
    }


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile, interpolated between neighbours."""
    return float(np.percentile(values, q))
