"""The figures of a run, one row per system, each beside LLM-only on the same problems. It prints and draws nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from evals.evaluation.modelled import Latencies
from evals.evaluation.record import Record
from evals.evaluation.run_file import Run
from evals.figures.statistics import bootstrap_mean, mcnemar, paired_ratio, unseen_difference, wilson

Row = dict[str, Any]
BASELINE = "llm_only"
# Means per answer, by their names in the router's account.
_COUNTS = ("slm_tokens", "llm_tokens", "switches", "discarded_proposals", "catch_up_tokens", "consultations", "trials",
           "trial_tokens")  # fmt: skip


def rows(run: Run, latencies: Latencies | None = None, baseline: str = BASELINE) -> list[Row]:
    """One row per system. What is said beside the baseline is missing where it did not answer."""
    theirs = run.of(baseline)
    return [_row(system, run.of(system), theirs, latencies) for system in run.systems]


def _row(system: str, records: Sequence[Record], baseline: Sequence[Record], latencies: Latencies | None) -> Row:
    given = [record for record in records if not record.error]
    right = sum(record.correct for record in records)
    shares = list(_by_problem(records).values())
    accuracy, low, high = bootstrap_mean(shares)
    # One answer per problem: independent trials, whose interval also holds where all are right.
    alone = len(shares) == len(records)
    if not alone and low == high:
        low, high = wilson(round(accuracy * len(shares)), len(shares))
    row: Row = {
        "system": system,
        "n": len(records),
        "problems": len(shares),
        "accuracy": accuracy,
        "accuracy_low": wilson(right, len(records))[0] if alone else low,
        "accuracy_high": wilson(right, len(records))[1] if alone else high,
        "bootstrap_low": low,
        "bootstrap_high": high,
        "errors": len(records) - len(given),
        "cut_off": sum(record.finish == "length" for record in records),
        "budget_spent": sum(bool(record.budget_spent) for record in records),
        "exited_early": sum(record.exited_early for record in records),
    }
    if given:
        row |= _costs(given, latencies)
    pairs = _pairs(records, baseline)
    if pairs:
        row |= _beside(pairs, alone, latencies)
    return row


def _costs(given: Sequence[Record], latencies: Latencies | None) -> Row:
    times = [record.latency_ms for record in given]
    row: Row = {name: fmean(record.count(name) for record in given) for name in _COUNTS}
    tokens = sum(record.num_tokens for record in given)
    drafted = sum(record.count("draft_tokens") for record in given)
    row |= {
        "tokens": tokens / len(given),
        "llm_share": sum(record.count("llm_tokens") for record in given) / max(1, tokens),
        "accepted_share": sum(record.count("accepted_draft_tokens") for record in given) / drafted if drafted else None,
        "latency_ms": fmean(times),
        "client_ms": fmean(record.client_ms for record in given),
        "ttft_p50_ms": float(np.percentile([record.ttft_ms for record in given], 50)),
        **{f"latency_p{q}_ms": float(np.percentile(times, q)) for q in (50, 90, 99)},
        "latency_low_ms": bootstrap_mean(times)[1],
        "latency_high_ms": bootstrap_mean(times)[2],
    }
    if latencies is not None:
        row["modelled_ms"] = latencies.mean_ms(given)
    return row


def _beside(pairs: Sequence[tuple[Record, Record]], alone: bool, latencies: Latencies | None) -> Row:
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
    speed_up, fast_low, fast_high = paired_ratio([b.latency_ms for _, b in both], [a.latency_ms for a, _ in both])
    shorter = sum(b.num_tokens for _, b in both) / sum(a.num_tokens for a, _ in both)
    row |= {
        "speed_up": speed_up,
        "speed_up_low": fast_low,
        "speed_up_high": fast_high,
        "shorter": shorter,
        "cheaper": speed_up / shorter,
    }
    if latencies is not None:
        modelled = [latencies.mean_ms([pair[side] for pair in both]) for side in (1, 0)]
        row["modelled_speed_up"] = modelled[0] / modelled[1] if modelled[0] and modelled[1] else None
    return row


def _pairs(records: Sequence[Record], baseline: Sequence[Record]) -> list[tuple[Record, Record]]:
    theirs = {(record.problem, record.sample): record for record in baseline}
    found = ((record, theirs.get((record.problem, record.sample))) for record in records)
    return [(ours, other) for ours, other in found if other is not None]


def _by_problem(records: Sequence[Record]) -> dict[int, float]:
    """The share of right answers to each problem: samples of one problem are not independent."""
    outcomes: dict[int, list[bool]] = defaultdict(list)
    for record in records:
        outcomes[record.problem].append(record.correct)
    return {problem: fmean(found) for problem, found in outcomes.items()}
