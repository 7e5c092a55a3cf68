"""The figures of a run, one row per system, each beside LLM-only on the same problems. It prints and draws nothing.

Words as guidellm and aiperf use them: TTFT, the time to the first token; TPOT, the time per output token after the
first (the mean inter-token latency); latency, end to end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Literal

import numpy as np

from evals.asking.load import Load
from evals.asking.record import PLACES, Record
from evals.asking.run_file import Run
from evals.figures.report import Row
from evals.figures.statistics import bootstrap_mean, mcnemar, paired_ratio, unseen_difference, wilson

BASELINE = "llm_only"
# The latency that a model of latencies gives to many answers; None where it cannot tell.
Modelled = Callable[[Sequence[Record]], float | None]
# Whose clock latencies are read from: the router's, or that of the client, which systems without a router have, too.
Clock = Literal["router", "client"]
_LATENCY = {"router": "latency_ms", "client": "client_ms"}
_TTFT = {"router": "ttft_ms", "client": "client_ttft_ms"}
# Means per answer, by their names in the router's account.
_COUNTS = ("slm_tokens", "llm_tokens", "switches", "discarded_proposals", "catch_up_tokens", "consultations", "trials",
           "trial_tokens")  # fmt: skip


def rows(run: Run, modelled: Modelled | None = None, baseline: str = BASELINE, clock: Clock = "router") -> list[Row]:
    """One row per system. What is said beside the baseline is missing where it did not answer."""
    theirs = run.of(baseline)
    return [_row(system, run.of(system), theirs, modelled, clock) for system in run.systems]


def _row(
    system: str, records: Sequence[Record], baseline: Sequence[Record], modelled: Modelled | None, clock: Clock
) -> Row:
    given = [record for record in records if not record.error]
    shares = list(_by_problem(records).values())
    accuracy, low, high = bootstrap_mean(shares)
    # One answer per problem: independent trials, whose interval also holds where all are right.
    alone = len(shares) == len(records)
    score = wilson(round(accuracy * len(shares)), len(shares))
    if not alone and low == high:
        low, high = score
    row: Row = {
        "system": system,
        "n": len(records),
        "problems": len(shares),
        "accuracy": accuracy,
        "accuracy_low": score[0] if alone else low,
        "accuracy_high": score[1] if alone else high,
        "bootstrap_low": low,
        "bootstrap_high": high,
        "errors": len(records) - len(given),
        "cut_off": sum(record.finish == "length" for record in records),
        "budget_spent": sum(bool(record.budget_spent) for record in records),
        "exited_early": sum(record.exited_early for record in records),
    }
    if given:
        row |= _costs(given, modelled, clock)
    theirs = {(record.problem, record.sample): record for record in baseline}
    pairs = [(record, theirs[place]) for record in records if (place := (record.problem, record.sample)) in theirs]
    if pairs:
        row |= _beside(pairs, alone, modelled, clock)
    return row


def _costs(given: Sequence[Record], modelled: Modelled | None, clock: Clock) -> Row:
    times = [getattr(record, _LATENCY[clock]) for record in given]
    first = [ms for record in given if (ms := getattr(record, _TTFT[clock]))]  # 0: not seen
    mean, low, high = bootstrap_mean(times)
    tokens = sum(record.num_tokens for record in given)
    drafted = sum(record.count("draft_tokens") for record in given)
    return {
        **{name: fmean(record.count(name) for record in given) for name in _COUNTS},
        "tokens": tokens / len(given),
        "llm_share": sum(record.count("llm_tokens") for record in given) / max(1, tokens),
        "accepted_share": sum(record.count("accepted_draft_tokens") for record in given) / drafted if drafted else None,
        "latency_ms": mean,
        "latency_low_ms": low,
        "latency_high_ms": high,
        "client_ms": fmean(record.client_ms for record in given),
        **_percentiles("latency", times),
        **(_percentiles("ttft", first) if first else {}),
        **({"modelled_ms": modelled(given)} if modelled else {}),
    }


def _beside(pairs: Sequence[tuple[Record, Record]], alone: bool, modelled: Modelled | None, clock: Clock) -> Row:
    """Accuracy and time beside the baseline's, on what both were asked."""
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    our_shares, their_shares = _by_problem(ours), _by_problem(theirs)
    difference, low, high = bootstrap_mean([our_shares[problem] - their_shares[problem] for problem in our_shares])
    if low == high and any(a is not b for a, b in pairs):
        low, high = difference - unseen_difference(len(our_shares)), difference + unseen_difference(len(our_shares))
    row: Row = {
        "pairs": len(pairs),
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "only_this": sum(a.correct and not b.correct for a, b in pairs),
        "only_baseline": sum(b.correct and not a.correct for a, b in pairs),
        "mcnemar_p": mcnemar([a.correct for a in ours], [b.correct for b in theirs]) if alone else None,
    }
    traced = [(a, b) for a, b in pairs if a.tokens and b.tokens]
    if traced:
        row["same_tokens"] = sum(a.tokens == b.tokens for a, b in traced) / len(traced)
    both = [(a, b) for a, b in pairs if a.num_tokens and b.num_tokens]
    if not both:
        return row
    theirs_ms, ours_ms = ([getattr(pair[side], _LATENCY[clock]) for pair in both] for side in (1, 0))
    speed_up, fast_low, fast_high = paired_ratio(theirs_ms, ours_ms)
    shorter = sum(b.num_tokens for _, b in both) / sum(a.num_tokens for a, _ in both)
    row |= {"speed_up": speed_up, "speed_up_low": fast_low, "speed_up_high": fast_high}
    row |= {"shorter": shorter, "cheaper": speed_up / shorter}
    if modelled is not None:
        base_ms, own_ms = (modelled([pair[side] for pair in both]) for side in (1, 0))
        row["modelled_speed_up"] = base_ms / own_ms if base_ms and own_ms else None
    return row


def under_load(records: Sequence[Record], load: Load) -> list[Row]:
    """Rows of the answers under one load, by the client's clock: also how fast, where the time went; of a variant of a
    system, which is named `SYSTEM (VARIANT)`, what it changes.
    """
    run, baseline, made = Run({}, [], list(records)), baseline_of(records), []
    by_system = {row["system"]: row for row in rows(run, baseline=baseline, clock="client")}
    for name in dict.fromkeys(record.system for record in records if record.block == 0):
        row = by_system[name] | {"load": load.label, "num_sessions": load.num_sessions, "rate": load.rate}
        row |= speed(run.of(name), run.of(baseline))
        varied = name.partition(" (")[0]
        row["variation"] = variation(run.of(name), run.of(varied)) if varied != name else None
        made.append(row)
    return made


def baseline_of(records: Sequence[Record]) -> str:
    """The system that the others are measured against: LLM-only where it takes part, else the first."""
    names = [record.system for record in records]
    return BASELINE if BASELINE in names else names[0]


def speed(records: Sequence[Record], baseline: Sequence[Record]) -> Row:
    """What a load adds to a row: time per token, throughput, both over the baseline's, where the time went; by the
    client's clock.
    """
    ours, theirs = throughput(records), throughput(baseline)
    return {
        **_percentiles("tpot", [record.client_tpot_ms for record in records]),
        "speed_up_p50": median(record.client_ms for record in baseline)
        / median(record.client_ms for record in records),
        **ours,
        "requests_ratio": ours["requests_per_s"] / theirs["requests_per_s"],
        "tokens_ratio": ours["output_tokens_per_s"] / theirs["output_tokens_per_s"],
        "places_ms_per_token": places(records),
    }


def throughput(records: Sequence[Record]) -> Row:
    """Answers and output tokens a second of the time that the blocks took, one after the other."""
    ends: dict[int, float] = defaultdict(float)
    for record in records:
        ends[record.block] = max(ends[record.block], record.start_s + record.client_ms / 1000)
    seconds = sum(ends.values())
    return {
        "wall_s": seconds,
        "requests_per_s": len(records) / seconds,
        "output_tokens_per_s": sum(record.num_tokens for record in records) / seconds,
    }


def places(records: Sequence[Record]) -> Row:
    """Milliseconds per token by place; the `total` is the mean latency. Empty if the system does not say."""
    told = [(record, record.places_us) for record in records if record.places_us]
    tokens = sum(record.num_tokens for record, _ in told)
    if not tokens:
        return {}
    row: Row = {place: sum(us.get(place, 0) for _, us in told) / 1000 / tokens for place in PLACES}
    return row | {"total": sum(record.client_ms for record, _ in told) / tokens}


def variation(records: Sequence[Record], varied: Sequence[Record]) -> Row:
    """What other settings make of a system: a ratio of latencies, milliseconds per token, a ratio of throughputs."""
    ours, theirs = ([record.client_ms for record in chosen] for chosen in (records, varied))
    ratio, low, high = paired_ratio(ours, theirs)
    return {
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "median_ratio": median(a / b for a, b in zip(ours, theirs, strict=True)),
        "per_token_ms": (sum(ours) - sum(theirs)) / sum(record.num_tokens for record in varied),
        "variation_requests_ratio": throughput(records)["requests_per_s"] / throughput(varied)["requests_per_s"],
    }


def _percentiles(name: str, values: Sequence[float]) -> Row:
    return {f"{name}_p{q}_ms": float(np.percentile(values, q)) for q in (50, 90, 99)}


def _by_problem(records: Sequence[Record]) -> dict[int, float]:
    """The share of right answers to each problem: samples of one problem are not independent."""
    outcomes: dict[int, list[bool]] = defaultdict(list)
    for record in records:
        outcomes[record.problem].append(record.correct)
    return {problem: fmean(found) for problem, found in outcomes.items()}
