"""`rstitch trajectory ls | show | label | cancel | rm`: the trajectories that a router keeps."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rstitch.cli import render
from rstitch.cli.common import Json, Router, command, out, print_json, print_whole
from rstitch.cli.labels import label_all, parse_label
from rstitch.client.plain import trajectory_dict
from rstitch.client.specs import policy_text
from rstitch.client.sync import Client
from rstitch.client.types import Cancelled, Label, Source, Trajectory
from rstitch.credentials import Credentials
from rstitch.errors import invalid
from rstitch.limits import ROUTER_ADDRESS

app = typer.Typer(no_args_is_help=True, help="The trajectories that a router keeps.")

Session = Annotated[str, typer.Argument(help="Id of the session.")]
FullStrip = Annotated[
    bool, typer.Option("--full-strip", help="Each token's entropy, however long the answer; else three lines hold all.")
]


@app.command("ls")
@command
def ls(
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    labelled: Annotated[bool, typer.Option("--labelled", help="Only those whose last answer has a label.")] = False,
    json: Json = False,
) -> None:
    """Lists the trajectories that are kept, newest first."""
    with Client(router, credentials=access) as client:
        found = list(islice(client.trajectories(min(limit, 1000), labelled=labelled), limit))
    if json:
        for trajectory in found:
            print_json(trajectory_dict(trajectory))
        return
    if not found:
        typer.echo("no trajectory has a label yet" if labelled else "no trajectories yet")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("session", "state", "tokens", "LLM share", "policy", "updated", "label"):
        table.add_column(name, justify="right" if name in ("tokens", "LLM share") else "left")
    for t in found:
        share = render.share(t.finished.usage) if t.finished else ""
        policy = policy_text(t.policy)
        updated = f"{t.updated.astimezone():%F %T}"
        table.add_row(t.session_id, t.state.value, str(t.length), share, policy, updated, _label_text(t))
    print_whole(out(), table)


@app.command("show")
@command
def show(
    session: Session,
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    full_strip: FullStrip = False,
    json: Json = False,
) -> None:
    """Shows one: its text coloured by model, its segments, its usage."""
    with Client(router, credentials=access) as client:
        trajectory = client.trajectory(session)
    if json:
        print_json(trajectory_dict(trajectory))
        return
    console, label = out(), _label_text(trajectory)
    console.print(
        f"session {trajectory.session_id}: {trajectory.state.value}, {trajectory.length} tokens, "
        f"policy {policy_text(trajectory.policy)}, epoch {trajectory.epoch}{label and f', label {label}'}\n",
        style="dim",
        soft_wrap=True,
    )
    console.print(render.legend(), end="\n\n")
    for before, segment in zip((None, *trajectory.segments), trajectory.segments, strict=False):
        if before is not None and Source.PROMPT in (before.source, segment.source):
            console.print()  # the marks between messages are special tokens, which are no text
        console.print(segment.text, style=render.style_of(segment.source), end="", markup=False, soft_wrap=True)
    console.print("\n")
    written: list[render.Written] = []
    for s in (s for s in trajectory.segments if s.source is not Source.PROMPT):
        written += render.discarded(s.source, s.reason, s.switch_entropy)
        written += [(s.source.value, entropy) for entropy in s.entropies]
    console.print(render.entropy_line(written, None if full_strip else console.width), end="\n\n")
    console.print(render.segments_table(trajectory.segments, console.width))
    if trajectory.finished:
        console.print()
        console.print(render.usage_table(trajectory.finished))
    if trajectory.trace_id:
        console.print(f"trace {trajectory.trace_id}", style="dim")


@app.command("label")
@command
def label(
    session: Annotated[str | None, typer.Argument(help="Id of the session.")] = None,
    word: Annotated[str | None, typer.Argument(metavar="[right|wrong|none]", help="Whether it was right.")] = None,
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    file: Annotated[
        Path | None, typer.Option(help='Labels many: lines of {"session_id": ..., "label": "right"}.')
    ] = None,
) -> None:
    """Says whether a session's last answer, which must be finished, was right; none takes that back."""
    with Client(router, credentials=access) as client:
        if file is not None:
            if session is not None:
                raise invalid("--file", "there is a session, too.", "Give a session and its label, or --file.")
            label_all(client, file)
            return
        if session is None or word is None:
            raise invalid("label", "a session and its label are needed.", "Write ID right, ID wrong, or --file FILE.")
        client.label_trajectory(session, parse_label(word))
    typer.echo(f"labelled {session}: {word}")


@app.command("cancel")
@command
def cancel(
    sessions: Annotated[list[str], typer.Argument(help="Ids of the sessions.")], router: Router = ROUTER_ADDRESS
) -> None:
    """Ends answers that are being written; what is written is kept."""
    with Client(router) as client:
        for session in sessions:
            typer.echo(cancelled_text(session, client.cancel(session)))


@app.command("rm")
@command
def rm(
    sessions: Annotated[list[str], typer.Argument(help="Ids of the sessions.")],
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
) -> None:
    """Forgets trajectories; one that is being written is stopped first."""
    with Client(router, credentials=access) as client:
        for session in sessions:
            client.delete_trajectory(session)
            typer.echo(f"removed {session}")


def cancelled_text(session: str, found: Cancelled) -> str:
    """Says what a cancel found, in one line."""
    if found.cancelled:
        return f"cancelled {session}: {found.length} tokens are kept"
    return f"{session} is not being written: {found.state.value}"


def _label_text(trajectory: Trajectory) -> str:
    return "" if trajectory.label is Label.UNSPECIFIED else trajectory.label.value
