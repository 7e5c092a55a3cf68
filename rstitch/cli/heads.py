"""`rstitch heads ls | put | activate | rollback | rm`: the heads that the policy `learned` can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rstitch.cli.common import Json, Router, command, out, print_json, print_whole
from rstitch.client.plain import as_dict
from rstitch.client.sync import Client
from rstitch.client.types import HeadStatus
from rstitch.credentials import Credentials
from rstitch.errors import RstitchError, invalid
from rstitch.limits import ROUTER_ADDRESS

app = typer.Typer(no_args_is_help=True, help="The heads that the policy learned can name.")

Name = Annotated[str, typer.Argument(help="Name of the head.")]


@app.command("ls")
@command
def ls(router: Router = ROUTER_ADDRESS, access: Credentials = Credentials(), json: Json = False) -> None:
    """Lists the heads of store and router; ask with one by --policy learned:NAME."""
    with Client(router, credentials=access) as client:
        found = client.status().heads
    if json:
        for head in found:
            print_json(as_dict(head))
        return
    if not found:
        typer.echo("no heads yet; rstitch heads put FILE --name NAME keeps one")
        return
    columns = ("head", "in service", "kept by", "put", "forgotten in", "tau", "features", "about")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for head in found:
        about = head.detail or head.description.partition("\n")[0]
        kept_by, features = "store" if head.stored else "router's folder", " ".join(head.features)
        put = f"{head.updated.astimezone():%F %T}" if head.updated else ""
        table.add_row(head.full_name, _mark(head), kept_by, put, _left(head), f"{head.tau:g}", features, escape(about))
    print_whole(out(), table)


@app.command("put")
@command
def put(
    file: Annotated[Path, typer.Argument(help="A head.safetensors.")],
    name: Annotated[str, typer.Option(help="The name that it is asked for by.")],
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    inactive: Annotated[bool, typer.Option("--inactive", help="Keep it, but leave what the name stands for.")] = False,
    ttl_s: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Forget it after so many seconds; 0: never.")] = 0,
    description: Annotated[str, typer.Option(help="How it was made and what it promises.")] = "",
) -> None:
    """Keeps a head where all routers find it, and puts it into service."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise invalid("FILE", f"it cannot be read: {error}.", "Name a head.safetensors.") from error
    with Client(router, credentials=access) as client:
        try:
            full_name = client.store_head(name, data, active=not inactive, ttl_s=ttl_s, description=description)
        except RstitchError as error:
            if error.field == "data":  # which is what the file is to the router
                error.field = str(file)
            raise
    typer.echo(f"kept {full_name}" if inactive else f"in service: {full_name}")


@app.command("activate")
@command
def activate(
    full_name: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version.")],
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
) -> None:
    """Lets a name stand for another of its versions, from the next answer on."""
    name, _, version = full_name.partition("@")
    if not version:
        raise invalid("NAME@VERSION", f"{name} has no version.", f"rstitch heads ls names them; or: rollback {name}.")
    with Client(router, credentials=access) as client:
        typer.echo(f"in service: {client.activate_head(name, version)}")


@app.command("rollback")
@command
def rollback(name: Name, router: Router = ROUTER_ADDRESS, access: Credentials = Credentials()) -> None:
    """Lets a name stand for the version before; once more takes that back."""
    with Client(router, credentials=access) as client:
        typer.echo(f"in service: {client.activate_head(name)}")


@app.command("rm")
@command
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME[@VERSION]...", help="Without a version: all of them.")],
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
) -> None:
    """Forgets heads of the store; answers that are being written go on with them."""
    with Client(router, credentials=access) as client:
        for name in names:
            client.delete_head(name)
            typer.echo(f"removed {name}")


def _mark(head: HeadStatus) -> str:
    return ("cannot be used" if head.detail else "yes") if head.active else ""


def _left(head: HeadStatus) -> str:
    """In what time the store forgets it, in its two largest units; "" for a folder's, and if the router is too old."""
    if head.ttl_s is None:
        return "stays" if head.updated else ""
    minutes, seconds = divmod(head.ttl_s, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((index for index, (number, _) in enumerate(parts) if number), len(parts))
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)
