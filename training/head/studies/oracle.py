"""What an oracle could do, and what a head could at most: `python -m training.head.studies.oracle`.

The oracle knows which hand-overs make an answer right (`hand_overs`). Its frontier: of the questions that the SLM alone
answers wrong, those are helped first that cost least, until an accuracy is reached. Beside it is what thresholds and
heads do on the same questions, in this process, and what to expect of a head by what it finds: on reference chains, if
calls go where its P(wrong) is highest, and an answer with a wrong token that was not found is a wrong answer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer
from rich.console import Console

from evals.asking.values import choice
from evals.figures.progress import progress_bar
from evals.figures.provenance import line, provenance
from evals.figures.report import Columns, Row, markdown_table, replace_section, terminal_table
from evals.figures.statistics import wilson
from evals.latency import LatencyModel
from rstitch.local.part import ROOT
from rstitch.service.head import Head
from training.commands import SEVERAL, run
from training.head.studies.hand_overs import Found, search
from training.head.studies.hand_overs import Path as Answered
from training.head.studies.recall import share_missed
from training.head.studies.scripted import Scripted
from training.head.warm_start.calibration import odds_of
from training.head.warm_start.chain_states import Chains, chain_states

PAGE = ROOT / "docs/head_limits.md"
_TASKS = {"tiny": ("words", "tiny-slm", "tiny-llm"), "programs": ("programs", "tiny-programs-slm", "tiny-programs-llm")}
_TAUS = {"tiny": (0.005, 0.01, 0.02, 0.03, 0.05), "programs": (0.001, 0.002, 0.005, 0.02)}
_SPLITS = ("dev", "calibration")
_HELD_OUT_SEED = 1_001
_HALF_A_POINT = 0.005
COLUMNS: Columns = {
    "decided by": "{name}",
    "accuracy %": "{accuracy:.1p}",
    "calls": "{calls:.2f}",
    "modelled ms": "{latency_ms:.1f}",
    "less than the best tau %": "{less:.1p}",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Says how n answers did: means of accuracy, calls and modelled latency."""

    name: str
    accuracy: float
    calls: float
    latency_ms: float

    @classmethod
    def of(cls, name: str, answers: Sequence[Answered]) -> Figures:
        return cls(
            name,
            fmean(each.right for each in answers),
            fmean(each.num_calls for each in answers),
            fmean(each.latency_ms for each in answers),
        )


def frontier(found: Sequence[Found], accuracy: float, name: str) -> Figures | None:
    """Helps the cheapest questions first until `accuracy` is reached; None: the oracle does not reach it."""
    n = len(found)
    answers = [each.alone for each in found]
    helpable = [index for index, each in enumerate(found) if not each.alone.right and each.best is not None]
    for index in sorted(helpable, key=lambda index: found[index].extra_ms):
        if sum(each.right for each in answers) >= accuracy * n - 1e-9:
            break
        best = found[index].best
        assert best is not None
        answers[index] = best
    made = Figures.of(name, answers)
    return made if made.accuracy >= accuracy - 1e-9 else None


def bounds(
    head: Head, chains: Chains, cache: Path, always: Figures, alone: Figures, calls: Sequence[float], name: str
) -> list[Figures]:
    """Says what accuracy to expect of a head at so many calls, if a wrong token that is not found is a wrong answer.

    Args:
        always, alone: with all hand-overs, and with none: what calls can reach, and what one costs.
    """
    states = chain_states(chains, cache)
    odds = odds_of(head, states)
    call_ms = (always.latency_ms - alone.latency_ms) / always.calls
    return [
        Figures(
            f"{name}, by what it finds",
            always.accuracy * (1 - share_missed(odds, states, each * states.num_answers)),
            each,
            alone.latency_ms + each * call_ms,
        )
        for each in calls
    ]


def best_tau(taus: Sequence[Figures]) -> Figures:
    """Gives the most accurate of the thresholds, of these the fastest."""
    return max(taus, key=lambda each: (each.accuracy, -each.latency_ms))


def fastest_within(rows: Sequence[Figures], accuracy: float) -> Figures | None:
    """Gives the fastest that is at least that accurate."""
    return min((each for each in rows if each.accuracy >= accuracy - 1e-9), key=lambda r: r.latency_ms, default=None)


@dataclass(frozen=True, slots=True)
class OracleFlags:
    """Says what is asked, how far the oracle looks, and which heads are beside it."""

    task: Annotated[str, choice(_TASKS, "What is asked.")] = "tiny"
    split: Annotated[str, choice(_SPLITS, "Never the test split.")] = "dev"
    n: Annotated[int, typer.Option(help="Questions.")] = 500
    tau: Annotated[float, typer.Option(help="The oracle is asked where the entropy is above.")] = 0.01
    max_pairs: Annotated[int, typer.Option(help="Of hand-overs tried for a question.")] = 60
    heads: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, metavar=f"FILE{SEVERAL}", help="Heads.", show_default="models/heads/TASK/head.safetensors"
        ),
    ] = None
    prices: Annotated[
        list[float] | None,
        typer.Option(metavar=f"PRICE{SEVERAL}", help="At which heads are asked.", show_default="1"),
    ] = None
    latency: Annotated[
        Path,
        typer.Option(
            "--latency-model",
            "--latency",
            exists=True,
            metavar="FILE",
            help="Latency model.",
            show_default="the bundled one",
        ),
    ] = ROOT / "docs/results/latency.json"
    num_chains: Annotated[int, typer.Option(help="For the bound.")] = 10_000
    work: Annotated[Path, typer.Option(help="Where their states are kept.")] = Path(".cache/sweep")
    write: Annotated[bool, typer.Option("--write", help=f"Into {PAGE.relative_to(ROOT)}.")] = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches, prints the table, and writes it if asked; returns the exit code."""
    return run(_oracle, "python -m training.head.studies.oracle", __doc__, arguments)


def _oracle(options: OracleFlags) -> None:
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 140)
    domain, slm, llm = _TASKS[options.task]
    folders = (str(ROOT / "models" / slm), str(ROOT / "models" / llm))
    files = options.heads
    if not files:
        files = [file for file in [ROOT / f"models/heads/{options.task}/head.safetensors"] if file.exists()]
    heads = {file.parent.name: Head.from_bytes(file.read_bytes()) for file in files}
    with (
        progress_bar(console) as progress,
        Scripted(folders, options.task, options.split, options.n, LatencyModel.load(options.latency)) as asked,
    ):
        taus = [
            Figures.of(f"threshold tau={tau:g}", asked.threshold(tau))
            for tau in progress.track(_TAUS[options.task], description="thresholds")
        ]
        llm_only = Figures.of("LLM alone", asked.llm_only())
        learned = [
            Figures.of(f"head {name}, price {price:g}", asked.head(head, price))
            for name, head in heads.items()
            for price in options.prices or (1.0,)
        ]
        task = progress.add_task("oracle", total=options.n)
        found = search(
            options.n, partial(asked.run, tau=options.tau), options.max_pairs, partial(progress.advance, task)
        )
    alone, always = (
        Figures.of(name, [getattr(each, field) for each in found])
        for name, field in (("SLM alone", "alone"), ("all hand-overs", "always"))
    )
    best = best_tau(taus)
    within = fastest_within(taus, best.accuracy - _HALF_A_POINT)
    assert within is not None
    targets = {
        "the LLM's accuracy": llm_only.accuracy,
        "the best tau's": best.accuracy,
        "half a point below": best.accuracy - _HALF_A_POINT,
    }
    oracles = [frontier(found, accuracy, f"oracle, {name}") for name, accuracy in targets.items()]
    bounded: list[Figures] = []
    for name, head in heads.items():
        facts = head.facts
        chains = Chains(folders[0], domain, facts.tau, options.num_chains, _HELD_OUT_SEED, facts.features)
        calls = [share * always.calls for share in (0.25, 0.4, 0.6, 0.8)]
        cache = options.work / f"{domain}-bound-{'-'.join(facts.features) or 'none'}"
        bounded += bounds(head, chains, cache, always, alone, calls, f"head {name}")
    rows: list[Row] = [
        {"name": each.name, "accuracy": each.accuracy, "calls": each.calls, "latency_ms": each.latency_ms,
         "less": 1 - each.latency_ms / within.latency_ms}
        for each in [llm_only, alone, *taus, *learned, *filter(None, oracles), *bounded]
    ]  # fmt: skip
    title = f"{options.task}:{options.split}, n = {options.n}"
    console.print(terminal_table(title, COLUMNS, rows))
    told = _told(found, options, best, within)
    console.print(told, soft_wrap=True)
    if options.write:
        text = f"{markdown_table(COLUMNS, rows)}\n\n{title[0].upper()}{title[1:]}. {told} {line(provenance())}"
        replace_section(PAGE, f"oracle-{options.task}", text)


def _told(found: Sequence[Found], options: OracleFlags, best: Figures, within: Figures) -> str:
    """What the search saw, in words."""
    n = len(found)
    wrong = [each for each in found if not each.alone.right]
    by_calls = {
        count: sum(each.best is not None and each.best.num_calls == count for each in wrong) for count in (1, 2)
    }
    more = sum(each.best is not None and each.best.num_calls > 2 for each in wrong)
    never = sum(each.best is None for each in wrong)
    bound = sum(not each.is_exact for each in wrong)
    low, high = wilson(round(best.accuracy * n), n)
    return (
        f"Of {n} answers the SLM alone has {len(wrong)} wrong: one hand-over (entropy above {options.tau:g}) makes "
        f"{by_calls[1]} right, two {by_calls[2]}, more {more}, none that was tried {never}; for {bound} the fewest are "
        f"not known: at most {options.max_pairs} pairs were tried. The best tau: {best.name} {best.accuracy:.1%} "
        f"[{low:.1%}, {high:.1%}]; the last column is against the fastest within half a point of it, {within.name}."
    )


if __name__ == "__main__":
    sys.exit(main())
