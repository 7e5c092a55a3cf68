"""`rstitch eval harmful`: the first token that turned an answer wrong, and the entropy around it.

The first harmful token of a wrong answer is the first SLM token after which the LLM, given the answer so far, no longer
ends right (the definition of R-Stitch, arXiv 2507.17307). It is found by bisection over the SLM tokens: the LLM
alone goes on from the prompt and a prefix of the answer, greedily. Bisection finds one such turn; `--scan` tries every
token from the first and finds the first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, get_args

import numpy as np
import typer
from rich.console import Console

from evals.asking.access import access
from evals.asking.load import closed_loop
from evals.asking.record import Record
from evals.asking.run_file import Run, read
from evals.asking.stack_options import RouterOrStack
from evals.asking.stacks import router_of
from evals.checking.checkers import checker_of
from evals.evaluation.harmful_token import Search, Turn, Verdict
from evals.evaluation.report import beside_document, write
from evals.figures import plots
from evals.figures.progress import progress_bar
from evals.figures.provenance import line, provenance
from evals.figures.statistics import bootstrap_mean
from evals.options import many
from evals.tasks.data import Data, load_data
from evals.tasks.task import Task, load
from rstitch.cli.progress import stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.errors import invalid

_AROUND = 10
_OFFSETS = range(-_AROUND, _AROUND + 1)


@dataclass(frozen=True, kw_only=True)
class Options(RouterOrStack):
    """The options of `rstitch eval harmful`."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="Of rstitch eval run, with traces.")]
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Gets harmful.json and harmful.png.")]
    systems: Annotated[list[str], typer.Option(metavar="POLICY...", help="Whose wrong answers.")] = many("slm_only")
    task: Annotated[str | None, typer.Option(metavar="FILE.toml", help="The task of the run, if it was a file.")] = None
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="The data of the run, if it was a file.")] = None
    n: Annotated[int, typer.Option(min=1, help="Wrong answers of each system at most.")] = 100
    scan: Annotated[bool, typer.Option("--scan", help="Try every token instead of bisecting.")] = False
    concurrency: Annotated[int, typer.Option(min=1, help="Answers looked at at a time.")] = 4
    name: Annotated[str, typer.Option(help="What the names of the files begin with.")] = ""
    write: Annotated[str | None, typer.Option(metavar="FILE.md:SECTION", help="Also into a section of a document.")] = (
        None
    )


def run(options: Options) -> int:
    """Finds the harmful tokens, draws and writes. Returns the exit code."""
    console = Console(highlight=False)
    found = read([options.file])
    found.require(options.systems)
    facts = found.configuration
    task = load(options.task or facts["task"])
    data = _same_data(task, facts, options.data, found)
    wrong: list[Record] = []
    for system in options.systems:
        of_slm = [record for record in found.of(system) if record.sample == 0 and "slm" in record.models]
        wrong += [record for record in of_slm if not record.correct][: options.n]
    if not wrong:
        console.print("no wrong answer with tokens of the SLM (or the run kept no traces)")
        return 0
    with stopped_by_signals(), ExitStack() as held:
        router = router_of(options, held, console)
        turns = asyncio.run(_look(router, task, data, wrong, facts["max_new_tokens"], options, console))
    _write(options, found, turns, wrong, console)
    return 0


async def _look(
    router: str,
    task: Task,
    data: Data,
    wrong: Sequence[Record],
    max_new_tokens: int,
    options: Options,
    console: Console,
) -> list[Turn]:
    async with AsyncExitStack() as held:
        client = await held.enter_async_context(AsyncClient(router, credentials=access()))
        checker = await held.enter_async_context(checker_of(task))
        await client.wait_ready()
        search = Search(client, task, checker, max_new_tokens)
        with progress_bar(console) as progress:
            bar = progress.add_task("wrong answers", total=len(wrong))

            async def look(record: Record) -> Turn:
                turn = await search.turn(data.problems[record.problem], record, options.scan)
                progress.update(bar, advance=1)
                return turn

            return await closed_loop(look, wrong, options.concurrency)


def around(records: Sequence[Record], indices: Sequence[Sequence[int]]) -> plots.Curve:
    """Mean entropy by offset from the tokens at `indices` of each answer, and its interval over answers."""
    found = []
    for offset in _OFFSETS:
        there = [
            [record.entropies[i + offset] for i in centres if 0 <= i + offset < len(record.entropies)]
            for record, centres in zip(records, indices, strict=True)
        ]
        per_answer = [fmean(entropies) for entropies in there if entropies]
        found.append(bootstrap_mean(per_answer) if per_answer else (nan, nan, nan))
    means, lows, highs = map(list, zip(*found, strict=True))
    return means, lows, highs


def _write(options: Options, run: Run, turns: Sequence[Turn], wrong: Sequence[Record], console: Console) -> None:
    systems: dict[str, Any] = {}
    curves, told = {}, []
    for system in options.systems:
        ours = [(turn, record) for turn, record in zip(turns, wrong, strict=True) if turn.system == system]
        counts = {verdict: sum(turn.verdict == verdict for turn, _ in ours) for verdict in get_args(Verdict)}
        told.append(f"`{system}`: {len(ours)} wrong answers; {', '.join(f'{n} {v}' for v, n in counts.items())}.")
        systems[system] = {"counts": counts, "turns": [asdict(turn) for turn, _ in ours]}
        found = [(turn, record) for turn, record in ours if turn.verdict == "found"]
        if found:
            records = [record for _, record in found]
            harmful = around(records, [[turn.index] for turn, _ in found])
            beside = [[i for i, by in enumerate(r.models) if by == "slm" and i != turn.index] for turn, r in found]
            others = around(records, beside)
            curves[f"{system}: around the first harmful token (n = {len(found)})"] = harmful
            curves[f"{system}: around the other SLM tokens of these answers"] = others
            systems[system] |= {"around_harmful": harmful, "around_others": others, "offsets": list(_OFFSETS)}
            told.append(_peak(harmful, others))
    facts = provenance()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.name}harmful.json"
    result = {"provenance": facts, "run": run.configuration, "scan": options.scan, "systems": systems}
    path.write_text(json.dumps(result, indent=1) + "\n")
    for text in told:
        console.print(text, markup=False)
    console.print(f"written: {path}", soft_wrap=True)
    picture = path.with_suffix(".png")
    if curves:
        title = f"{run.configuration['task']}: entropy around the token that turned the answer wrong"
        plots.around(_OFFSETS, curves, title, picture)
        console.print(f"written: {picture}", soft_wrap=True)
    if options.write:
        if curves:
            image = beside_document(picture, options.write)
            told.append(f"![entropy around the first harmful token]({image})\n\n{line(facts)}")
        write(options.write, "\n\n".join(told))


def _peak(harmful: plots.Curve, others: plots.Curve) -> str:
    """Where the entropy is highest, and what it is at the token itself, beside other tokens."""
    means, lows, highs = harmful
    at, peak = means[_AROUND], int(np.nanargmax(means))
    return (
        f"Mean entropy at the harmful token {at:.3f} [{lows[_AROUND]:.3f}, {highs[_AROUND]:.3f}] (other SLM tokens of "
        f"these answers {others[0][_AROUND]:.4f}); highest at offset {peak - _AROUND:+d}: {means[peak]:.3f} "
        f"[{lows[peak]:.3f}, {highs[peak]:.3f}]."
    )


def _same_data(task: Task, facts: dict[str, Any], file: Path | None, run: Run) -> Data:
    """The problems of the run. Raises: RstitchError (INVALID_ARGUMENT) if they are no longer the same."""
    n = 1 + max(record.problem for record in run.records)
    split = facts["data"].split()[1] if task.generator else ""
    data = load_data(task, file, split, facts["seed"], n)
    if (task.digest, data.digest) != (facts["task_digest"], facts["data_digest"]):
        raise invalid("FILE", f"{task.name} is not what it was in this run.", "Give its --data, or run it again.")
    return data
