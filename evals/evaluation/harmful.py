"""`rstitch eval harmful`: the first token that turned an answer wrong, and the entropy around it.

The first harmful token of a wrong answer is the first SLM token after which the LLM, given the answer so far, no longer
ends right (the definition of R-Stitch, arXiv 2507.17307). It is found by bisection over the SLM tokens: the LLM
alone goes on from the prompt and a prefix of the answer, greedily. Bisection finds one such turn; `--scan` tries every
token from the first and finds the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console

from evals.answers import Checker
from evals.bench.flags import positive
from evals.bench.load import closed_loop
from evals.evaluation import plots
from evals.evaluation.checkers import checker_of
from evals.evaluation.data import Data, Problem, load_data
from evals.evaluation.records import Record, Run, read
from evals.evaluation.report import write
from evals.evaluation.runner import question_of
from evals.evaluation.stacks import add_stack_arguments, router_of
from evals.evaluation.task import Task, load
from evals.progress import progress_bar
from evals.provenance import line, provenance
from evals.statistics import bootstrap_mean
from rstitch.cli.progress import stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Source
from rstitch.errors import invalid

_AROUND = 10
_OFFSETS = range(-_AROUND, _AROUND + 1)

# Means, and the lower and upper ends of their intervals.
Curve = tuple[list[float], list[float], list[float]]
Verdict = Literal["found", "never right", "by the LLM", "at the end"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What became of one wrong answer.

    Attributes:
        index: of the first harmful token in the answer, if found.
        verdict: "found"; "never right": the LLM alone is wrong, too; "by the LLM": the answer turned wrong within
            tokens of the LLM; "at the end": the LLM ends right after every token but the last.
        num_asked: continuations that it took.
    """

    system: str
    problem: int
    verdict: Verdict
    index: int = -1
    num_asked: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rstitch eval harmful`."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # fmt: off
    parser.add_argument("file", type=Path, metavar="FILE", help="of rstitch eval run, with traces")
    parser.add_argument("--systems", nargs="+", default=["slm_only"], metavar="POLICY",
                        help="whose wrong answers (default slm_only)")
    parser.add_argument("--task", metavar="FILE.toml", help="the task of the run, if it was a file")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the data of the run, if it was a file")
    parser.add_argument("--n", type=positive, default=100, help="wrong answers of each system at most (default 100)")
    parser.add_argument("--scan", action="store_true", help="try every token instead of bisecting")
    parser.add_argument("--concurrency", type=positive, default=4, help="answers looked at at a time (default 4)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets harmful.json and harmful.png")
    parser.add_argument("--name", default="", help="what the names of the files begin with")
    parser.add_argument("--write", metavar="FILE.md:SECTION", help="also into a section of a document")
    # fmt: on
    add_stack_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Finds, draws, writes. Returns the exit code."""
    console = Console(highlight=False)
    found = read([options.file])
    for system in options.systems:
        if system not in found.systems:
            raise invalid("--systems", f"{system} is none of the run.", f"Choose of {' '.join(found.systems)}.")
    facts = found.configuration
    task = load(options.task or facts["task"])
    data = _same_data(task, facts, options.data, found)
    wrong = [record for system in options.systems for record in _wrong(found, system)[: options.n]]
    if not wrong:
        console.print("no wrong answer with tokens of the SLM (or the run kept no traces)")
        return 0
    with stopped_by_signals(), ExitStack() as held:
        router = router_of(options, held, console)
        turns = asyncio.run(_look(router, task, data, wrong, facts["max_new_tokens"], options, console))
    _write(options, found, turns, wrong, console)
    return 0


class Search:
    """Looks for the turn of one answer: the LLM goes on from prefixes of it."""

    def __init__(self, client: AsyncClient, task: Task, checker: Checker, max_new_tokens: int) -> None:
        self._client = client
        self._task = task
        self._checker = checker
        self._max_new_tokens = max_new_tokens

    async def turn(self, problem: Problem, record: Record, scan: bool) -> Turn:
        """The first harmful token, by bisection or by trying all."""
        prompt, prompt_text = await self._prompt(problem)
        asked: dict[int, bool] = {}

        async def is_right(length: int) -> bool:
            """Whether the LLM ends right after so many tokens of the answer."""
            if length not in asked:
                asked[length] = await self._ends_right(problem, prompt, prompt_text, record.tokens[:length])
            return asked[length]

        # After each of these tokens the LLM can go on; not after the one that ended the answer.
        indices = [i for i, model in enumerate(record.models) if model == "slm"]
        indices = [i for i in indices if not (record.finish == "stop" and i == len(record.tokens) - 1)]

        def told(verdict: Verdict, index: int = -1) -> Turn:
            return Turn(record.system, record.problem, verdict, index, len(asked))

        if not await is_right(0):
            return told("never right")
        if not indices:
            return told("by the LLM")
        if scan:
            turned = 0
            while turned < len(indices) and await is_right(indices[turned] + 1):
                turned += 1
        elif await is_right(indices[-1] + 1):
            turned = len(indices)
        else:
            right, turned = -1, len(indices) - 1
            while turned - right > 1:
                middle = (right + turned) // 2
                right, turned = (middle, turned) if await is_right(indices[middle] + 1) else (right, middle)
        if turned == len(indices):
            return told("at the end")
        index = indices[turned]
        # Tokens of the LLM may lie between this token of the SLM and the one before.
        return told("found", index) if await is_right(index) else told("by the LLM", index)

    async def _prompt(self, problem: Problem) -> tuple[tuple[int, ...], str]:
        """The prompt's tokens, and their text."""
        question = question_of(self._task, problem)
        answer = await self._client.answer(**question, policy=LlmOnly(), max_new_tokens=1, guard=False)
        segments = (await self._client.trajectory(answer.session_id)).segments
        prompts = [segment for segment in segments if segment.source is Source.PROMPT]
        tokens = tuple(token for segment in prompts for token in segment.tokens)
        return tokens, "".join(segment.text for segment in prompts)

    async def _ends_right(
        self, problem: Problem, prompt: tuple[int, ...], prompt_text: str, prefix: tuple[int, ...]
    ) -> bool:
        answer = await self._client.answer(
            tokens=[*prompt, *prefix],
            policy=LlmOnly(),
            max_new_tokens=max(1, self._max_new_tokens - len(prefix)),
            stop=self._task.stop,
            guard=False,
        )
        whole = (await self._client.trajectory(answer.session_id)).text
        return (await self._checker.check(problem, whole.removeprefix(prompt_text))).correct


async def _look(
    router: str,
    task: Task,
    data: Data,
    wrong: Sequence[Record],
    max_new_tokens: int,
    options: argparse.Namespace,
    console: Console,
) -> list[Turn]:
    async with AsyncExitStack() as held:
        client = await held.enter_async_context(AsyncClient(router))
        checker = await held.enter_async_context(checker_of(task))
        await client.wait_ready()
        search = Search(client, task, checker, max_new_tokens)
        with progress_bar(console) as progress:
            bar = progress.add_task("wrong answers", total=len(wrong))

            async def look(record: Record) -> Turn:
                turn = await search.turn(data.problems[record.problem], record, options.scan)
                progress.update(bar, advance=1)
                return turn

            done = await closed_loop(look, wrong, options.concurrency)
    return [timed.reply for timed in sorted(done, key=lambda timed: timed.index)]


def _wrong(run: Run, system: str) -> list[Record]:
    """Wrong answers of first samples with tokens of the SLM."""
    return [record for record in run.of(system) if not record.correct and record.sample == 0 and "slm" in record.models]


def around(records: Sequence[Record], indices: Sequence[Sequence[int]]) -> Curve:
    """Mean entropy by offset from the tokens at `indices` of each answer, and its interval over answers."""
    means, lows, highs = [], [], []
    for offset in _OFFSETS:
        per_answer = []
        for record, centres in zip(records, indices, strict=True):
            there = [record.entropies[i + offset] for i in centres if 0 <= i + offset < len(record.entropies)]
            if there:
                per_answer.append(float(np.mean(there)))
        mean, low, high = bootstrap_mean(per_answer) if per_answer else (float("nan"),) * 3
        means.append(mean)
        lows.append(low)
        highs.append(high)
    return means, lows, highs


def _write(
    options: argparse.Namespace, run: Run, turns: Sequence[Turn], wrong: Sequence[Record], console: Console
) -> None:
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
            others = around(records, [_others(record, turn.index) for turn, record in found])
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
        told.append(f"![entropy around the first harmful token](PICTURE)\n\n{line(facts)}")
    if options.write:
        document = Path(options.write.rpartition(":")[0])
        relative = os.path.relpath(picture, document.parent)
        write(options.write, "\n\n".join(told).replace("PICTURE", Path(relative).as_posix()))


def _peak(harmful: Curve, others: Curve) -> str:
    """Where the entropy is highest, and what it is at the token itself, beside other tokens."""
    means, lows, highs = harmful
    at, peak = means[_AROUND], int(np.nanargmax(means))
    return (
        f"Mean entropy at the harmful token {at:.3f} [{lows[_AROUND]:.3f}, {highs[_AROUND]:.3f}] (other SLM tokens of "
        f"these answers {others[0][_AROUND]:.4f}); highest at offset {peak - _AROUND:+d}: {means[peak]:.3f} "
        f"[{lows[peak]:.3f}, {highs[peak]:.3f}]."
    )


def _others(record: Record, index: int) -> list[int]:
    return [i for i, model in enumerate(record.models) if model == "slm" and i != index]


def _same_data(task: Task, facts: dict[str, Any], file: Path | None, run: Run) -> Data:
    """The problems of the run. Raises: RstitchError (INVALID_ARGUMENT) if they are no longer the same."""
    n = 1 + max(record.problem for record in run.records)
    split = facts["data"].split()[1] if task.generator else ""
    data = load_data(task, file, split, facts["seed"], n)
    if (task.digest, data.digest) != (facts["task_digest"], facts["data_digest"]):
        raise invalid("FILE", f"{task.name} is not what it was in this run.", "Give its --data, or run it again.")
    return data
