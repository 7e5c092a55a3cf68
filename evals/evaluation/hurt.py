"""`rstitch eval hurt`: problems that LLM-only solves and a routed answer does not, as coloured traces.

The worst come first: those that even the SLM alone solves (so that nothing but the switching is to blame), then those
where the LLM was called and could not help, then those that most of the systems lose, then those that took longest.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from evals.asking.record import Question, Record
from evals.asking.run_file import Run, read
from evals.evaluation.report import RunFiles, write
from evals.figures.answers import BASELINE
from evals.options import many
from rstitch.cli.render import STYLES, legend
from rstitch.errors import invalid

_SLM_ONLY = "slm_only"
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Case:
    """A problem that routing lost: what LLM-only wrote, what the SLM alone did (if it was asked), who got it wrong."""

    question: Question
    right: Record
    alone: Record | None
    wrong: tuple[Record, ...]

    @property
    def traces(self) -> list[Record]:
        return [record for record in (self.right, self.alone, self.wrong[0]) if record is not None]

    @property
    def others(self) -> str:
        return ", ".join(record.system for record in self.wrong[1:])

    @property
    def rank(self) -> tuple[bool, bool, int, float]:
        """Orders the cases: the higher, the worse."""
        return (
            self.alone is not None and self.alone.correct,
            self.wrong[0].count("switches") > 0,
            len(self.wrong),
            sum(record.latency_ms for record in self.wrong),
        )


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `rstitch eval hurt`."""

    files: RunFiles
    systems: Annotated[
        list[str], typer.Option(metavar="POLICY...", help="Whose answers.", show_default="all of both models")
    ] = many()
    n: Annotated[int, typer.Option(min=1, help="At most so many problems.")] = 10
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also as .html, .svg or .txt.")] = None
    write: Annotated[str | None, typer.Option(metavar="FILE.md:SECTION", help="Also into a section of a document.")] = (
        None
    )


def run(options: Options) -> int:
    """Shows the cases. Returns the exit code."""
    if options.out and options.out.suffix not in (".html", ".svg", ".txt"):
        raise invalid("--out", f"{options.out} is none of .html, .svg and .txt.", "Name such a file.")
    found = read(options.files)
    systems = options.systems or routed(found)
    found.require(systems)
    hurt = cases(found, systems)
    counts = _counts(found, hurt, systems)
    console = Console(highlight=False)
    show(console, counts, hurt[: options.n])
    if options.out:
        _save(options.out, counts, hurt[: options.n], f"{found.configuration['task']}: where switching hurt")
        console.print(f"written: {options.out}", soft_wrap=True)
    if options.write:
        write(options.write, markdown(counts, hurt[: options.n]))
    return 0


def routed(run: Run) -> list[str]:
    """The systems of which both models wrote something."""
    return [name for name in run.systems if len({part for each in run.of(name) for part in each.models}) > 1]


def cases(run: Run, systems: Sequence[str]) -> list[Case]:
    """Every problem that LLM-only solves and one of these does not, the worst first; of first samples, with traces."""
    right = {record.problem: record for record in run.of(BASELINE) if record.correct and record.sample == 0}
    alone = {record.problem: record for record in run.of(_SLM_ONLY) if record.sample == 0}
    wrong: dict[int, list[Record]] = {}
    for system in systems:
        for record in run.of(system):
            if record.sample == 0 and not record.correct and record.problem in right:
                wrong.setdefault(record.problem, []).append(record)
    found = []
    for problem, records in wrong.items():
        question = run.questions.get(problem) or Question(problem, right[problem].id, "", "")
        most_switched = sorted(records, key=lambda record: record.count("switches"), reverse=True)
        found.append(Case(question, right[problem], alone.get(problem), tuple(most_switched)))
    return sorted(found, key=lambda case: case.rank, reverse=True)


def show(console: Console, counts: str, worst: Sequence[Case]) -> None:
    """Prints how many there are, then the worst."""
    console.print(counts)
    console.print(legend())
    for number, case in enumerate(worst, 1):
        console.print(Rule(f"{number}. problem {case.question.id}", align="left"))
        console.print(Text(case.question.prompt), style="dim")
        console.print(Text(f"right answer: {case.question.reference}"))
        for record in case.traces:
            _trace(console, record)
        if case.others:
            console.print(Text(f"also wrong: {case.others}", style="dim"))


def markdown(counts: str, worst: Sequence[Case]) -> str:
    """Writes the same for a document, where what the LLM wrote of a stitched answer is bold."""
    parts = [f"{counts} ⟨**Bold**⟩ is what the LLM wrote of a stitched answer."]
    for number, case in enumerate(worst, 1):
        prompt = html.escape(case.question.prompt)
        if "\n" in prompt:
            prompt = f"\n\n<pre>{_without_empty_lines(prompt)}</pre>"
        parts.append(f"**{number}. Problem {case.question.id}.** {prompt}")
        for record in case.traces:
            lines = "".join(
                f"<b>{html.escape(text)}</b>" if bold else html.escape(text) for text, bold in _marked(record)
            )
            about = f"{_mark(record)} `{record.system}`{_facts(record)}"
            parts.append(f"{about}\n\n<pre>{_without_empty_lines(lines)}</pre>")
        if case.others:
            parts.append(f"Also wrong: {case.others}.")
    return "\n\n".join(parts)


def _without_empty_lines(text: str) -> str:
    """An empty line would end a block of HTML within Markdown."""
    return re.sub(r"\n\s*\n", "\n", text)


def _counts(run: Run, hurt: Sequence[Case], systems: Sequence[str]) -> str:
    solved = sum(record.correct for record in run.of(BASELINE))
    return (
        f"Of {solved} problems that LLM-only solves, {len(hurt)} are lost by one or more of {len(systems)} routed "
        f"systems; {sum(case.rank[0] for case in hurt)} of these the SLM alone solves, and in "
        f"{sum(not case.rank[1] for case in hurt)} the LLM was never called."
    )


def _trace(console: Console, record: Record) -> None:
    mark = (_mark(record), "green" if record.correct else "red")
    console.print(Text.assemble(mark, " ", (record.system, "bold"), (_facts(record), "dim")))
    text = Text()
    for part, (marked, _) in zip(record.parts, _marked(record), strict=True):
        text.append(marked, style=STYLES[part.model])
    console.print(text if text else Text("(no trace was kept)", style="dim"))


def _mark(record: Record) -> str:
    return "✔" if record.correct else "✘"


def _facts(record: Record) -> str:
    return f"  {record.num_tokens} tokens, {record.count('llm_tokens')} by the LLM, {record.count('switches')} switches"


def _marked(record: Record) -> list[tuple[str, bool]]:
    """The segments; the LLM's in a stitched answer have brackets, for where there are no colours."""
    stitched = len({part.model for part in record.parts}) > 1
    llm = [stitched and part.model == "llm" for part in record.parts]
    return [(f"⟨{part.text}⟩" if told else part.text, told) for part, told in zip(record.parts, llm, strict=True)]


def _save(path: Path, counts: str, worst: Sequence[Case], title: str) -> None:
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), highlight=False, force_terminal=True)
    show(console, counts, worst)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        console.save_svg(str(path), title=title)
    elif path.suffix == ".html":
        console.save_html(str(path))
    else:
        console.save_text(str(path))
