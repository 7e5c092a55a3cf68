"""`rstitch status`: all workers that a router knows, how full each is, and whether sessions go there."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from rstitch.cli.common import Json, Router, command, out, print_json, print_whole
from rstitch.client.plain import as_dict
from rstitch.client.sync import Client
from rstitch.client.types import WorkerMember
from rstitch.credentials import Credentials
from rstitch.limits import ROUTER_ADDRESS


@command
def status(
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    timeout: Annotated[float, typer.Option(min=0.001, help="Give up after so many seconds.")] = 5.0,
    json: Json = False,
) -> None:
    """Lists the workers of both models; whether all is well says `rstitch health`."""
    with Client(router, credentials=access) as client:
        members = client.status(timeout_s=timeout).members
    if json:
        print_json([as_dict(member) for member in members])
        return
    if not members:
        typer.echo("no workers are known; this router tells them to keys with the scope admin alone")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("worker", "model", "address", "state"):
        table.add_column(name)
    for name in ("running", "sessions", "free pages", "cards"):
        table.add_column(name, justify="right")
    table.add_column("")
    for member in sorted(members, key=lambda member: (member.role != "slm", member.id)):
        free = f"{member.num_free_pages:,} of {member.num_pages:,}"
        figures = (f"{member.num_running}", f"{member.num_sessions}", free, f"{max(member.num_cards, 1)}")
        table.add_row(member.id, member.role.upper(), member.address, _state(member), *figures, Text(member.detail))
    print_whole(out(), table)


def _state(member: WorkerMember) -> Text:
    if not member.ready:
        return Text("not ready", style="bold red")
    return Text("draining", style="yellow") if member.draining else Text("ready", style="green")
