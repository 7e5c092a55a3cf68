"""`rstitch profiles ls | show | put | rm`: the policies that a router keeps under names."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer
from rich.markup import escape
from rich.table import Table

from rstitch.cli.common import Json, Router, command, out, print_json, print_whole
from rstitch.cli.policies import HELP, spec_of
from rstitch.client.plain import profile_dict
from rstitch.client.specs import Spec, text_of
from rstitch.client.sync import Client
from rstitch.client.types import KeptProfile
from rstitch.credentials import Credentials
from rstitch.errors import RstitchError, invalid
from rstitch.limits import ROUTER_ADDRESS

app = typer.Typer(no_args_is_help=True, help="The policies that a router keeps under names.")

Name = Annotated[str, typer.Argument(help="Name of the profile.")]


@app.command("ls")
@command
def ls(router: Router = ROUTER_ADDRESS, access: Credentials = Credentials(), json: Json = False) -> None:
    """Lists profiles by name; ask with one by --policy profile:NAME."""
    with Client(router, credentials=access) as client:
        found = client.profiles()
    if json:
        for profile in found:
            print_json(profile_dict(profile))
        return
    if not found:
        typer.echo("no profiles yet; rstitch calibrate --name makes one")
        return
    table = Table("name", "policy", "updated", "found", box=None, padding=(0, 2, 0, 0))
    for profile in found:
        updated = f"{profile.updated.astimezone():%F %T}" if profile.updated else ""
        table.add_row(profile.name, _words(profile), updated, escape(profile.description.partition("\n")[0]))
    print_whole(out(), table)


@app.command("show")
@command
def show(name: Name, router: Router = ROUTER_ADDRESS, access: Credentials = Credentials(), json: Json = False) -> None:
    """Shows one: its policy and how it was found."""
    with Client(router, credentials=access) as client:
        found = {profile.name: profile for profile in client.profiles()}
    if name not in found:
        remedy = f"There are {', '.join(found)}." if found else "There are none."
        raise RstitchError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_PROFILE", f"there is no profile {name}.", remedy=remedy)
    if json:
        print_json(profile_dict(found[name]))
        return
    console = out()
    console.print(f"{name}: {_words(found[name])}", markup=False, soft_wrap=True)
    console.print(found[name].description, markup=False, soft_wrap=True)


@app.command("put")
@command
def put(
    name: Name,
    policy: Annotated[str, typer.Argument(help=HELP)],
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    description: Annotated[str, typer.Option(help="Where it comes from.")] = "set by hand",
) -> None:
    """Keeps a policy under a name; one that was kept under it is replaced. `rstitch calibrate` finds one."""
    spec = spec_of(policy, None, None)
    if spec.policy is None:
        raise invalid("policy", f"{policy!r} alone says no tau.", "Name one, such as threshold:tau=0.02.")
    with Client(router, credentials=access) as client:
        kept = client.put_profile(KeptProfile(name, spec.policy, spec.early_exit, spec.budget, description))
    typer.echo(f"{kept.name}: {_words(kept)}")


@app.command("rm")
@command
def rm(
    names: Annotated[list[str], typer.Argument(help="Names of the profiles.")],
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
) -> None:
    """Forgets profiles; answers that were begun with them are not touched."""
    with Client(router, credentials=access) as client:
        for name in names:
            client.delete_profile(name)
            typer.echo(f"removed {name}")


def _words(profile: KeptProfile) -> str:
    return text_of(Spec(profile.policy, profile.early_exit, profile.budget))
