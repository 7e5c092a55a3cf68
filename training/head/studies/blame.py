"""Whose token it is that makes an answer wrong: `python -m training.head.studies.blame [--task programs] [--write]`.

A tiny domain says how a right solution goes, line by line in either model's style. An answer is followed along the
right line that it is nearest to, up to the first token that leaves both styles. A head can help where that token is the
SLM's and it was asked, not where the LLM wrote it; but it can let the LLM begin lines, among which the LLM errs less.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from evals.asking.systems import Terms
from evals.asking.values import choice
from evals.checking.checkers import checker_of
from evals.figures.progress import progress_bar
from evals.figures.provenance import line, provenance
from evals.figures.report import Columns, Row, markdown_table, replace_section, terminal_table
from evals.latency import LatencyModel
from evals.tasks import task as tasks
from evals.tasks.data import load_data
from evals.tasks.tiny.domain import OPEN, Domain, Style
from evals.tasks.tiny.domains import DOMAINS
from rstitch.client.policies import Learned, LlmOnly, Threshold
from rstitch.local.part import ROOT
from rstitch.service.head import Head
from training.commands import SEVERAL, run
from training.head.rollouts.engines import Engines, open_engines
from training.head.rollouts.in_process import InProcessRollouts
from training.head.rollouts.judging import Judge
from training.head.rollouts.types import Asked, Job, Rollout

PAGE = ROOT / "docs/head_limits.md"
_TASKS = {"tiny": ("words", "tiny-slm", "tiny-llm"), "programs": ("programs", "tiny-programs-slm", "tiny-programs-llm")}
_TAUS = (0.001, 0.02)
_STYLES: tuple[Style, ...] = ("short", "verbose")
_COLUMNS: Columns = {
    "decided by": "{name}",
    "LLM %": "{llm_share:.1p}",
    "LLM's lines %": "{verbose:.1p}",
    "wrong": "{wrong}",
    "by LLM": "{llm}",
    "by SLM, asked": "{stayed}",
    "by SLM, unasked": "{unasked}",
}


def first_wrong(text: str, domain: Domain[Any], problem: Any) -> tuple[int | None, list[Style]]:
    """Finds where an answer leaves what is right, and whose style its lines have up to there.

    Args:
        problem: the domain's own.

    Returns: the character of `text` from which no right line goes on as it does (None: all of it is right), and the
        style of each line that is right.
    """
    at, styles = 0, list[Style]()
    lines = zip(*(domain.lines(problem, style) for style in _STYLES), strict=True)
    for ways in ((OPEN,), *lines, (domain.closing(problem),)):
        common = [_common(text, at, way) for way in ways]
        best = max(range(len(ways)), key=common.__getitem__)
        at += common[best]
        if common[best] < len(ways[best]):
            return at, styles
        if len(ways) > 1:
            styles.append(_STYLES[best])
    return (None if at == len(text) else at), styles


def _common(text: str, at: int, way: str) -> int:
    return next((n for n, char in enumerate(way) if text[at + n : at + n + 1] != char), len(way))


def blamed(rollout: Rollout, start: int, ends: Sequence[int], wrong_at: int) -> str:
    """Says who wrote the token with a character: `llm`, or the SLM, as the head said (`stayed`) or unasked (`unasked`).

    Args:
        start: tokens of the prompt.
        ends: where each token of the answer ends in its text.
    """
    index = next((number for number, end in enumerate(ends) if end > wrong_at), len(ends))  # the end itself
    writers = [run.model for run in rollout.runs for _ in range(run.num_tokens)]
    if writers[min(index, len(writers) - 1)] == "llm":
        return "llm"
    return "stayed" if start + index in {each.position for each in rollout.consultations} else "unasked"


def look(name: str, rollouts: Sequence[Rollout], engines: Engines, terms: Terms, domain: Domain[Any]) -> Row:
    """Makes the row of a policy."""
    told, styles, untold = Counter[str](), list[Style](), 0
    for rollout in rollouts:
        wrong_at, of_lines = first_wrong(rollout.text, domain, rollout.problem.source)
        styles += of_lines
        if rollout.right:
            continue
        pieces = [engines.text([token]) for token in engines.tokenizer.encode(rollout.text, add_special_tokens=False)]
        # The text does not say how it was cut; where the pieces are as many as the tokens it was cut alike.
        if wrong_at is None or rollout.num_tokens - len(pieces) not in (0, 1):
            untold += 1
            continue
        ends = list(accumulate(map(len, pieces)))
        told[blamed(rollout, len(engines.prompt(rollout.problem.prompt, terms)), ends, wrong_at)] += 1
    return {
        "name": name,
        "llm_share": sum(each.num_llm_tokens for each in rollouts) / sum(each.num_tokens for each in rollouts),
        "verbose": styles.count("verbose") / max(1, len(styles)),
        "wrong": sum(not each.right for each in rollouts),
        **{who: told[who] for who in ("llm", "stayed", "unasked")},
        "untold": untold,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers the questions under each policy, prints the table, and writes it if asked; returns the exit code."""
    return run(_blame, "python -m training.head.studies.blame", __doc__, arguments)


def _blame(
    files: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Heads.", show_default="the bundled one of the task")
    ] = None,
    task: Annotated[str, choice(_TASKS, "What is asked.")] = "programs",
    taus: Annotated[
        list[float] | None,
        typer.Option(metavar=f"TAU{SEVERAL}", help="Thresholds.", show_default=" ".join(map(str, _TAUS))),
    ] = None,
    n: Annotated[int, typer.Option(help="Questions of dev.")] = 500,
    write: Annotated[bool, typer.Option("--write", help=f"Into {PAGE.relative_to(ROOT)}.")] = False,
) -> None:
    torch.set_num_threads(1)
    name, *models = _TASKS[task]
    asked, domain = tasks.load(task), DOMAINS[name]
    terms = Terms.of(asked, None)
    problems = load_data(asked, split="dev", n=n).problems
    slm, llm = (str(ROOT / "models" / model) for model in models)
    engines = open_engines(slm, llm)
    judge = Judge(terms, checker_of(asked), LatencyModel.load(ROOT / "docs/results/latency.json"))
    files = files or [ROOT / "models/heads" / task / "head.safetensors"]
    heads = {file.parent.name: Head.from_bytes(file.read_bytes()) for file in files}
    console = Console(width=None if sys.stdout.isatty() else 120)
    rows: list[Row] = []
    with InProcessRollouts(engines, judge) as rollouts, progress_bar(console) as progress:

        def answered(label: str, policy: Asked) -> None:
            bar = progress.add_task(label, total=len(problems))
            made = rollouts.run([Job(problem) for problem in problems], policy, lambda rollout: progress.advance(bar))
            rows.append(look(label, made, engines, terms, domain))

        answered("LLM alone", LlmOnly())
        for tau in taus or _TAUS:
            answered(f"threshold tau={tau:g}", Threshold(tau))
        for label, head in heads.items():
            answered(f"head {label} {head.version}, tau={head.facts.tau:g}", Learned(rollouts.use(head)))
    untold = sum(row["untold"] for row in rows)
    title = f"{task}, dev, n = {len(problems)}: who wrote the first wrong token"
    if untold:
        title += f" ({untold} wrong answers have none that could be told)"
    console.print(terminal_table(title, _COLUMNS, rows))
    if write:
        told = f"{markdown_table(_COLUMNS, rows)}\n\n{title}. {line(provenance())}"
        replace_section(PAGE, f"blame-{task}", told)


if __name__ == "__main__":
    sys.exit(main())
