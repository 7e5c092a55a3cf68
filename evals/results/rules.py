"""What says whether a claim of the paper holds here: rules over the rows of the runs, so that new figures change them.

Whatever was chosen of several on the same problems says of how many; the runs are of the test split, and no rule
chooses a setting for use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rstitch.client.specs import parse
from rstitch.client.types import Confidence, Learned, Signal, Threshold

Row = dict[str, Any]
Rows = Mapping[str, Row]
HOLDS, IN_PART, NOT, UNTESTED = "holds", "holds in part", "does not hold", "can't be tested here"
# A loss of accuracy up to so much counts as none, in shares.
_EQUAL = 0.01
_HALF_A_POINT = 0.005


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a claim."""

    verdict: str
    figure: str


@dataclass(frozen=True, slots=True)
class Runs:
    """Rows by system: one session at a time, many at once, and of the second domain.

    Attributes:
        beside: rows of the first, each beside the system that is named instead of LLM-only; none: no interval is given.
    """

    latency: Rows
    frontier: Rows
    programs: Rows
    beside: Callable[[str], Rows] = lambda baseline: {}


def _thresholds(rows: Rows) -> list[Row]:
    """Entropy against one tau. Raises KeyError if there is none."""
    specs = [(parse(name), row) for name, row in rows.items()]
    found = [
        row
        for spec, row in specs
        if isinstance(spec.policy, Threshold)
        and spec.policy.signal is Signal.UNSPECIFIED
        and spec.early_exit is None
        and spec.budget is None
    ]
    if not found:
        raise KeyError("threshold")
    return found


def _equal(rows: Sequence[Row]) -> list[Row]:
    """Those that lose at most a point to LLM-only."""
    return [row for row in rows if row["difference"] >= -_EQUAL]


def _points(row: Row) -> str:
    return f"{100 * row['difference']:+.1f} [{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"


def _faster(row: Row) -> str:
    return f"{row['speed_up']:.2f}x [{row['speed_up_low']:.2f}, {row['speed_up_high']:.2f}]"


def speed_up(runs: Runs) -> Finding:
    """The fastest of those within a point; accuracies are those of the run with more problems."""
    rows = _thresholds(runs.latency)
    equal = {row["system"]: row for row in _equal([runs.frontier[row["system"]] for row in rows])}
    best = max((row for row in rows if row["system"] in equal), key=lambda row: row["speed_up"], default=None)
    if best is None:
        return Finding(NOT, "no threshold within a point of LLM-only")
    verdict = HOLDS if best["speed_up_low"] >= 3 else IN_PART if best["speed_up_low"] > 1 else NOT
    points = _points(equal[best["system"]])
    return Finding(verdict, f"of {len(rows)} tau the fastest `{best['system']}`: {_faster(best)} at {points} points")


def sweet_spot(runs: Runs) -> Finding:
    """Negligible: at most two points of loss by the interval's lower end."""
    row = runs.frontier["threshold:tau=0.02"]
    verdict = HOLDS if row["difference_low"] >= -2 * _EQUAL else IN_PART if row["difference_high"] >= 0 else NOT
    return Finding(verdict, f"tau 0.02: {_points(row)} points with {row['llm_share']:.1%} of the tokens by the LLM")


def more_accurate(runs: Runs) -> Finding:
    """The best of several on the same problems: its p is that of the best of so many (Bonferroni)."""
    rows = _thresholds(runs.frontier)
    best = max(rows, key=lambda row: row["difference"])
    p = min(1.0, best["mcnemar_p"] * len(rows))
    figure = f"best of {len(rows)} tau, `{best['system']}`: {_points(best)} points, p = {p:.2g} (Bonferroni)"
    return Finding(HOLDS if best["difference"] > 0 and p < 0.05 else NOT, figure)


def shorter(runs: Runs) -> Finding:
    """At least a twentieth fewer tokens."""
    row = runs.latency["threshold:tau=0.02"]
    return Finding(
        HOLDS if row["shorter"] > 1.05 else NOT,
        f"tau 0.02: {row['speed_up']:.2f}x = {row['shorter']:.2f}x shorter x {row['cheaper']:.2f}x cheaper a token",
    )


def random(runs: Runs) -> Finding:
    """The coin whose LLM share is nearest, and intervals that do not meet."""
    ours = runs.frontier["threshold:tau=0.02"]
    coins = [row for name, row in runs.frontier.items() if name.startswith("random:")]
    nearest = min(coins, key=lambda row: abs(row["llm_share"] - ours["llm_share"]))
    verdict = HOLDS if nearest["accuracy_high"] < ours["accuracy_low"] else NOT
    shares = f"{ours['llm_share']:.1%} and {nearest['llm_share']:.1%} LLM tokens"
    return Finding(
        verdict, f"{shares}: threshold {ours['accuracy']:.1%}, `{nearest['system']}` {nearest['accuracy']:.1%}"
    )


def speculative(runs: Runs) -> Finding:
    """As right on every problem; faster or slower within the paper's range."""
    row = runs.latency["speculative:draft_tokens=4"]
    same = row["only_this"] == row["only_baseline"] == 0
    within = 0.66 <= row["speed_up"] <= 2.29
    accepted = f"; {row['accepted_share']:.0%} of the drafts accepted" if row.get("accepted_share") is not None else ""
    tokens = f"{row['same_tokens']:.1%} of the answers the LLM's token for token"
    return Finding(HOLDS if same and within else IN_PART if same else NOT, f"{_faster(row)}, {tokens}{accepted}")


def learned(runs: Runs) -> Finding:
    """The fastest head beside the fastest tau, both within half a point of the most accurate tau.

    The most accurate tau is no measure of latency: it may buy a tenth of a point dearly. Accuracies are those of the
    run with more problems.
    """
    taus = _thresholds(runs.latency)
    heads = [row for name, row in runs.latency.items() if isinstance(parse(name).policy, Learned)]
    accuracies = {row["system"]: runs.frontier[row["system"]]["accuracy"] for row in (*taus, *heads)}
    bar = max(accuracies[row["system"]] for row in taus) - _HALF_A_POINT - 1e-9

    def fastest(rows: list[Row]) -> Row | None:
        good = [row for row in rows if accuracies[row["system"]] >= bar]
        return min(good, key=lambda row: row["latency_ms"], default=None)

    tau, head = fastest(taus), fastest(heads)
    if head is None or tau is None:
        return Finding(NOT, "no head within half a point of the most accurate tau")
    saved = 1 - head["latency_ms"] / tau["latency_ms"]
    paired = runs.beside(tau["system"]).get(head["system"])
    interval = f" [{1 - 1 / paired['speed_up_low']:.0%}, {1 - 1 / paired['speed_up_high']:.0%}]" if paired else ""
    sure = saved > 0 and (paired is None or paired["speed_up_low"] > 1)

    def words(row: Row, of: str) -> str:
        return f"of {of} the fastest `{row['system']}` {accuracies[row['system']]:.1%} at {row['latency_ms']:.1f} ms"

    return Finding(
        HOLDS if saved >= 0.15 and sure else IN_PART if sure else NOT,
        f"{words(head, f'{len(heads)} heads')}, {words(tau, f'{len(taus)} tau')}: {saved:.0%}{interval} less "
        "(both within half a point of the most accurate tau)",
    )


def entropy_beats_confidence(runs: Runs) -> Finding:
    """At equal LLM share, wherever confidence was run: entropy's accuracy between its neighbours there, less its own.

    Between two taus a line is drawn, over the logarithm of the share: a little too low for a curve that bends down.
    """
    entropy = sorted(_thresholds(runs.frontier), key=lambda row: row["llm_share"])
    shares = [row["llm_share"] for row in entropy]
    confidence = [row for name, row in runs.frontier.items() if isinstance(parse(name).policy, Confidence)]
    within = [row for row in confidence if shares[0] <= row["llm_share"] <= shares[-1] and shares[0] > 0]
    if not within:
        return Finding(NOT, "no LLM share that both have")
    at = np.interp(np.log([row["llm_share"] for row in within]), np.log(shares), [row["accuracy"] for row in entropy])
    gaps = at - [row["accuracy"] for row in within]
    told = ", ".join(f"{100 * gap:+.1f} at {row['llm_share']:.1%}" for gap, row in zip(gaps, within, strict=True))
    verdict = HOLDS if gaps.mean() > _EQUAL else NOT
    return Finding(verdict, f"points of accuracy more than confidence at its LLM shares: {told}; more than one counts")


def early_exit(runs: Runs) -> Finding:
    """Both together are faster than either alone, at equal accuracy."""
    names = ("threshold:tau=0.02+early_exit:threshold=0.95", "threshold:tau=0.02", "llm_only+early_exit:threshold=0.95")
    both, *alone = (runs.latency[name] | {"accuracy": runs.frontier[name]["accuracy"]} for name in names)
    holds = all(
        both["latency_ms"] < row["latency_ms"] and both["accuracy"] >= row["accuracy"] - _EQUAL for row in alone
    )
    told = [f"{row['accuracy']:.1%} at {row['latency_ms']:.1f} ms" for row in (both, *alone)]
    return Finding(
        HOLDS if holds else NOT,
        f"together {told[0]}, stitching alone {told[1]}, early exit alone {told[2]}; {both['exited_early']} of "
        f"{both['n']} left early",
    )


def carries_over(runs: Runs) -> Finding:
    """The first domain's tau, on the second."""
    row = runs.programs["threshold:tau=0.02"]
    best = min(_equal(_thresholds(runs.programs)), key=lambda other: other["llm_share"], default=None)
    ours = f"tau 0.02 on the second domain: {_points(row)} points, {row['llm_share']:.1%} LLM tokens"
    other = f"; the cheapest within a point is `{best['system']}`" if best else "; none is within a point"
    return Finding(HOLDS if row["difference"] >= -_EQUAL else NOT, ours + other)
