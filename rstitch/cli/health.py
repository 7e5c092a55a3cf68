"""`rstitch health`: is it ready? Exit code 0 or 1, for people and for container health checks."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from rstitch.cli.common import FAILED, Json, Router, command, out, print_json, print_whole
from rstitch.client.plain import as_dict
from rstitch.client.sync import Client
from rstitch.client.types import GuardStatus
from rstitch.credentials import Credentials
from rstitch.limits import ROUTER_ADDRESS
from rstitch.local.readiness import health_of


@command
def health(
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ask this gRPC server's grpc.health.v1 instead.")
    ] = None,
    service: Annotated[str, typer.Option(help="With --address: the service; empty: the whole server.")] = "",
    timeout: Annotated[float, typer.Option(min=0.001, help="Give up after so many seconds.")] = 5.0,
    json: Json = False,
) -> None:
    """Says whether the router and both workers are ready; exit code 1 if not."""
    ready = (
        _server_health(address, service, timeout, access, json)
        if address
        else _router_health(router, timeout, access, json)
    )
    if not ready:
        raise typer.Exit(FAILED)


def _server_health(address: str, service: str, timeout: float, access: Credentials, json: bool) -> bool:
    state = health_of(address, service, timeout, access)
    if json:
        print_json({"address": address, "health": state})
    else:
        typer.echo(state)
    return state == "SERVING"


def _router_health(router: str, timeout: float, access: Credentials, json: bool) -> bool:
    with Client(router, credentials=access) as client:
        status = client.status(timeout_s=timeout)
    # The router itself stays ready while a worker is away for a while: answers wait for it.
    ready = status.ready and all(worker.ready for worker in status.workers)
    if json:
        print_json(as_dict(status))
        return ready
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("router", router, _mark(status.ready), status.detail or f"{status.num_running} answers being written")
    for worker in status.workers:
        model = f"{worker.model} ({worker.num_parameters / 1e6:,.1f}M, {worker.dtype}, {worker.device})"
        table.add_row(f"{worker.role.upper()} worker", worker.address, _mark(worker.ready), worker.detail or model)
    console = out()
    print_whole(console, table)
    console.print(f"policies: {', '.join(status.policies)}; default tau {status.default_tau:g}", style="dim")
    if status.vocabularies:
        console.print(f"vocabularies: {status.vocabularies}", style="dim", markup=False, highlight=False)
    console.print(_guard(status.guard), style="dim")
    return ready


def _guard(guard: GuardStatus) -> str:
    """Says what routing costs at the moment, and who writes new answers because of it."""
    new = "LLM-only" if guard.llm_only and guard.on else "routed"
    return f"guard {'on' if guard.on else 'off'}, new answers {new}: {guard.reason or 'this router does not say'}"


def _mark(ready: bool) -> Text:
    return Text("ready", style="green") if ready else Text("not ready", style="bold red")
