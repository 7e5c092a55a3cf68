"""What is measured for docs/results/*.md, in order: commands that anybody can run. It runs none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PICTURES = "docs/results"  # and the pages with the tables

# As many points as a line needs; the middle of each was looked for on the dev split.
ENTROPY = [f"threshold:tau={tau}" for tau in ("0.001", "0.005", "0.02", "0.05", "0.1", "0.2")]
CONFIDENCE = [f"confidence:threshold={p}" for p in ("0.6", "0.8", "0.95")]
MARGIN = [f"threshold:tau={tau},signal=margin" for tau in ("0.1", "0.3", "0.6")]
WINDOW = [f"threshold:tau={tau},signal=entropy_window,window=4" for tau in ("0.005", "0.01", "0.03")]
# The first two have about the LLM's shares of tau 0.02 and 0.005.
RANDOM = [f"random:slm_probability={p}" for p in ("0.965", "0.94", "0.8")]
SPECULATIVE = ["speculative:draft_tokens=4"]
LEARNED = ["learned:name=tiny", "learned:name=tiny,tau=0.03"]
# At threshold 1 no trial is ever kept: what trials cost.
EXIT = [
    "llm_only+early_exit:threshold=0.95",
    "threshold:tau=0.02+early_exit:threshold=0.95",
    "threshold:tau=0.02+early_exit:threshold=1",
]
ALONE = ["llm_only", "slm_only"]
FRONTIER = [*ALONE, *ENTROPY, *CONFIDENCE, *MARGIN, *WINDOW, *RANDOM, *SPECULATIVE, *LEARNED, *EXIT]

LATENCY = [
    *ALONE,
    *(f"threshold:tau={tau}" for tau in ("0.005", "0.02", "0.05", "0.1")),
    "confidence:threshold=0.8",
    "threshold:tau=0.3,signal=margin",
    "random:slm_probability=0.965",
    "speculative:draft_tokens=4",
    *LEARNED,
    *EXIT,
]
PROGRAMS_PAIR = ["--slm", "models/tiny-programs-slm", "--llm", "models/tiny-programs-llm"]
PROGRAMS = [*ALONE, *ENTROPY, "speculative:draft_tokens=4", "random:slm_probability=0.9"]


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the page.

    Attributes:
        commands: modules with their arguments, one after the other.
        minutes: about, on two cores.
    """

    name: str
    title: str
    commands: Sequence[Sequence[str]]
    minutes: int


def steps(folder: Path, n: int, n_latency: int) -> list[Step]:
    """All of them.

    Args:
        folder: keeps the runs, which are gone on with.
        n: held-out problems of the runs that look at accuracy; the second domain's has half as many.
        n_latency: of the one that looks at latency, one session at a time.
    """
    evaluation, latency_model = "evals.evaluation", str(Path(PICTURES) / "latency.json")

    def run(task: str, systems: Sequence[str], count: int, *more: str) -> list[str]:
        return [evaluation, "run", "--task", task, "--n", str(count), "--systems", *systems, *more]

    def pages(name: str, report: Sequence[str] = (), plot: Sequence[str] = ()) -> list[list[str]]:
        file = str(folder / f"{name}.jsonl")
        return [
            [evaluation, "report", file, *report, "--write", f"{PICTURES}/{name}.md:{name}"],
            [evaluation, "plot", file, *plot, "--out", PICTURES, "--name", f"{name}-"],
        ]

    modelled = ["--latency-model", latency_model]

    def out(name: str, concurrency: int) -> list[str]:
        return ["--out", str(folder / f"{name}.jsonl"), "--concurrency", str(concurrency)]

    return [
        Step(
            "model",
            "the latency model, checked on whole answers",
            [["evals.latency", "check", "--write"]],
            3,
        ),
        Step(
            "latency",
            "every policy, one session at a time, in turn",
            [run("tiny", LATENCY, n_latency, *out("latency", 1)), *pages("latency", modelled)],
            8,
        ),
        Step(
            "frontier",
            "every signal and policy, many sessions at once",
            [
                run("tiny", FRONTIER, n, *out("frontier", 16), "--order", "blocks"),
                *pages("frontier", [*modelled, "--no-times"], modelled),
                [evaluation, "hurt", str(folder / "frontier.jsonl"), "--systems", "threshold:tau=0.1",
                 "--write", f"{PICTURES}/hurt.md:hurt"],
                [evaluation, "harmful", str(folder / "frontier.jsonl"), "--systems", "slm_only", "threshold:tau=0.1",
                 "--write", f"{PICTURES}/hurt.md:harmful", "--out", PICTURES],
            ],
            30,
        ),
        Step(
            "programs",
            "a second domain",
            [
                run("programs", PROGRAMS, max(1, n // 2), *out("programs", 16), "--order", "blocks", *PROGRAMS_PAIR),
                *pages("programs", ["--no-times"], ["--no-times"]),
            ],
            10,
        ),
    ]  # fmt: skip
