"""What a candidate is worth: walks at many thresholds, the threshold it should run at, and how it ranks.

Equal accuracy means: at most `max_loss` below the LLM on the same questions, as the walks come out. Of the thresholds
where that holds the fastest is proposed; a candidate that has none is served by the LLM alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evals.figures.statistics import wilson
from evals.pairs.timing import Timing
from evals.pairs.walk import Text, walk

Array: TypeAlias = NDArray[np.float64]
TAUS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True, slots=True)
class Sample:
    """One question: the prompt's length and both models' answers."""

    num_prompt_tokens: int
    slm: Text
    llm: Text


@dataclass(frozen=True, slots=True)
class Outlook:
    """What stitching at one threshold is expected to give. Accuracy and LLM share in [0, 1]; the rest per answer.

    The interval is the 95% that so many questions leave, not what the walk may be wrong by.
    """

    tau: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    llm_share: float
    switches: float
    tokens: float
    latency_ms: float
    speed_up: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate's prediction.

    Attributes:
        n: questions that it is predicted from.
        slm_follows: share of the tokens of the LLM's answers that the SLM would have written.
        llm_follows: the other way about.
        curve: over the thresholds, rising.
        tau: proposed; None: none keeps the accuracy.
        speed_up_low, speed_up_high: the 95% that so many questions, and rounds of timing that differ, leave of the
            speed-up at the proposed threshold.
        stitched_ms, alone_ms: at the proposed threshold, [rounds of timing, questions].
    """

    name: str
    num_parameters: int
    n: int
    slm_accuracy: float
    llm_accuracy: float
    slm_tokens: float
    llm_tokens: float
    slm_follows: float
    llm_follows: float
    llm_only_ms: float
    curve: tuple[Outlook, ...]
    tau: float | None
    speed_up_low: float
    speed_up_high: float
    stitched_ms: Array
    alone_ms: Array

    @property
    def proposed(self) -> Outlook:
        """At the proposed threshold; the LLM alone if there is none."""
        at = [outlook for outlook in self.curve if outlook.tau == self.tau]
        low, high = wilson(round(self.llm_accuracy * self.n), self.n)
        alone = Outlook(-1.0, self.llm_accuracy, low, high, 1.0, 0.0, self.llm_tokens, self.llm_only_ms, 1.0)
        return at[0] if at else alone

    def as_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        del plain["stitched_ms"], plain["alone_ms"]
        return {**plain, "proposed": asdict(self.proposed)}


def outlook(samples: Sequence[Sample], timing: Timing, tau: float) -> Outlook:
    """The means over the questions at one threshold."""
    walks = [walk(sample.slm, sample.llm, tau) for sample in samples]
    num_right = sum(walked.is_right for walked in walks)
    low, high = wilson(num_right, len(walks))
    num_tokens = sum(walked.num_tokens for walked in walks)
    latency = fmean(timing.stitched_ms(s.num_prompt_tokens, w) for s, w in zip(samples, walks, strict=True))
    return Outlook(
        tau=tau,
        accuracy=num_right / len(walks),
        accuracy_low=low,
        accuracy_high=high,
        llm_share=sum(walked.count("llm") for walked in walks) / max(1, num_tokens),
        switches=fmean(walked.num_switches for walked in walks),
        tokens=num_tokens / len(walks),
        latency_ms=latency,
        speed_up=_llm_only_ms(samples, timing) / latency,
    )


def predict(
    name: str,
    num_parameters: int,
    samples: Sequence[Sample],
    timing: Timing,
    max_loss: float,
    taus: Sequence[float] = TAUS,
) -> Candidate:
    """One candidate. `max_loss` is a share, in [0, 1]."""
    curve = tuple(outlook(samples, timing, tau) for tau in sorted(taus))
    llm_accuracy = fmean(sample.llm.is_right for sample in samples)
    fit = [one for one in curve if one.accuracy >= llm_accuracy - max_loss - 1e-9 and one.speed_up > 1]
    tau = max(fit, key=lambda one: one.speed_up).tau if fit else None
    rounds = timing.by_round()
    alone_ms = np.array([[t.llm_ms(s.num_prompt_tokens, len(s.llm.tokens)) for s in samples] for t in rounds])
    stitched_ms = alone_ms
    if tau is not None:
        walks = [(sample.num_prompt_tokens, walk(sample.slm, sample.llm, tau)) for sample in samples]
        stitched_ms = np.array([[t.stitched_ms(*walked) for walked in walks] for t in rounds])
    _, low, high = ratio_of_rounds(alone_ms, stitched_ms)
    return Candidate(
        name=name,
        num_parameters=num_parameters,
        n=len(samples),
        slm_accuracy=fmean(sample.slm.is_right for sample in samples),
        llm_accuracy=llm_accuracy,
        slm_tokens=fmean(len(sample.slm.tokens) for sample in samples),
        llm_tokens=fmean(len(sample.llm.tokens) for sample in samples),
        slm_follows=fmean(sample.llm.agreement("slm") for sample in samples),
        llm_follows=fmean(sample.slm.agreement("llm") for sample in samples),
        llm_only_ms=_llm_only_ms(samples, timing),
        curve=curve,
        tau=tau,
        speed_up_low=low,
        speed_up_high=high,
        stitched_ms=stitched_ms,
        alone_ms=alone_ms,
    )


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The fastest at equal accuracy first; those for which there is no threshold by how well they are followed."""
    return sorted(candidates, key=lambda one: (one.proposed.speed_up, one.llm_follows), reverse=True)


def ratio_of_rounds(ours: Array, theirs: Array, draws: int = 2000) -> tuple[float, float, float]:
    """Median over the rounds of the ratio of two sums over questions, and its 95% bootstrap interval (fixed seed).

    Questions and rounds are drawn anew, both paired: [rounds, questions].
    """
    rng = np.random.default_rng(0)
    num_rounds, n = ours.shape
    found = []
    for _ in range(draws):
        rounds, asked = rng.integers(num_rounds, size=num_rounds), rng.integers(n, size=n)
        drawn = np.ix_(rounds, asked)
        found.append(np.median(ours[drawn].sum(axis=1) / theirs[drawn].sum(axis=1)))
    low, high = np.percentile(found, (2.5, 97.5))
    return float(np.median(ours.sum(axis=1) / theirs.sum(axis=1))), float(low), float(high)


def alike(best_first: Sequence[Candidate]) -> list[str]:
    """A sentence for each neighbour in the ranking that cannot be told from the one before it at 95%."""
    said = []
    for one, other in itertools.pairwise(best_first):
        ratio, low, high = ratio_of_rounds(other.stitched_ms, one.stitched_ms)
        if low <= 1 <= high:
            first, second = Path(one.name).name, Path(other.name).name
            said.append(
                f"{first} and {second} cannot be told apart: with {first} an answer is {ratio:.2f}x "
                f"[{low:.2f}, {high:.2f}] as fast (95%, {one.n} questions). Give more questions (--n), or compare "
                "them on the real stack (--check)."
            )
    return said


def _llm_only_ms(samples: Sequence[Sample], timing: Timing) -> float:
    return fmean(timing.llm_ms(sample.num_prompt_tokens, len(sample.llm.tokens)) for sample in samples)
