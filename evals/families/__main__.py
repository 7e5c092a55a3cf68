"""`python -m evals.families`: which decoder families of the installed transformers are served exactly, and which not.

Of each family a tiny random model is made, served by an engine among other sessions (prompts in chunks and beyond the
window, a draft, sessions that are taken back), and compared with transformers' own greedy `generate`, token for token.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.progress import Progress
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evals.families import page
from evals.families.check import Verdict
from evals.families.children import check_each
from rstitch.cli.common import FAILED, Json, command, err, out, print_json
from rstitch.errors import invalid

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
@command
def families(
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A family (model_type); may be repeated.")
    ] = None,
    json: Json = False,
    write: Annotated[bool, typer.Option("--write", help="Also write the table into docs/models.md.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = 2,
    limit_s: Annotated[float, typer.Option(min=1, help="The most seconds for a family.")] = 300.0,
) -> None:
    """Checks families and tells what came of them; exit code 1 if one of them is served wrong."""
    known = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if unknown := sorted(set(only or ()) - set(known)):
        raise invalid("--only", f"transformers has no decoder family {unknown[0]!r}.", "Name a model_type, as llama.")
    if write and only:
        raise invalid("--write", "the page has all families.", "Leave out --only.")
    outcomes = []
    with Progress(console=err(), transient=True) as progress:
        task = progress.add_task("families", total=len(only or known))
        for outcome in check_each(only or known, jobs, limit_s):
            progress.update(task, advance=1, description=outcome.family)
            outcomes.append(outcome)
            if json:
                print_json(dataclasses.asdict(outcome))
    if not json:
        out().print(page.table(outcomes))
    if write:
        page.write(outcomes)
    if any(outcome.verdict is Verdict.WRONG for outcome in outcomes):
        raise typer.Exit(FAILED)


if __name__ == "__main__":
    app()
