"""`rstitch ray`: a fleet on a Ray cluster. Ray puts workers on cards, restarts and scales them, and sees no token."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import ray
import typer

from launching import commands, joining, showing
from launching.flags import args_of, check_exposed, model_of
from launching.plan import BUNDLED, ROLES, Plan, Routers, Scaling, Workers, check_fleet
from launching.registered import LOGIN
from launching.scaling import Patience, parse_bounds
from rstitch.cli.common import FAILED, Json, command, err, out, print_error, print_json, print_whole
from rstitch.cli.progress import stopped_by_signals
from rstitch.errors import invalid
from rstitch.local.checks import check_redis

_WATCH_S = 1.0
_FAR = "ray://"

app = typer.Typer(
    name="rstitch ray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A fleet on a Ray cluster: Ray places, restarts and scales its workers. Tokens do not pass through it.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Address = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Of Ray: auto (this machine's, or RAY_ADDRESS), HOST:PORT, ray://HOST:PORT, or local."
    ),
]
Fleet = Annotated[str, typer.Option(metavar="NAME", envvar="RSTITCH_FLEET", help="Fleets are apart by their names.")]
Within = Annotated[float, typer.Option(min=0, help="So long a worker may drain, in s; then it is killed.")]
Timeout = Annotated[float, typer.Option(min=1, help="How long workers may take to start, in s.")]
Autoscale = Annotated[
    str,
    typer.Option(metavar="ROLE=LOW..HIGH,...", help="Scale by load within bounds, such as slm=1..4,llm=1..2."),
]
UpAfter = Annotated[float, typer.Option(min=1, help="One more once somebody has waited for so long, in s.")]
DownAfter = Annotated[float, typer.Option(min=1, help="One less once a worker has idled for so long, in s.")]


def _of_part(whom: str, example: str) -> Any:
    told = f"A flag of {whom}, such as {example}; may be repeated."
    return typer.Option(metavar="FLAG", help=told, rich_help_panel="Flags of the parts (docs/operations.md)")


@app.command("up")
@command
def up(
    slm: Annotated[int, typer.Option(min=1, help="SLM workers.")] = 1,
    llm: Annotated[int, typer.Option(min=1, help="LLM workers.")] = 1,
    tp: Annotated[int, typer.Option(min=1, help="Cards of each LLM worker, over which its model is spread.")] = 1,
    slm_model: Annotated[
        str | None, typer.Option(help="Folder on every node, or hub id.", show_default="the bundled tiny SLM")
    ] = None,
    llm_model: Annotated[
        str | None, typer.Option(help="Folder on every node, or hub id.", show_default="the bundled tiny LLM")
    ] = None,
    redis: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="RSTITCH_REDIS",
            help="Redis of workers and routers; also RSTITCH_REDIS_CA, _CERT, _KEY, _PASSWORD_FILE.",
            show_default="one on the head's node, for a trial",
        ),
    ] = "",
    routers: Annotated[int, typer.Option(min=0, help="Routers.")] = 1,
    http: Annotated[bool, typer.Option("--http/--no-http", help="An HTTP gateway in front of each router.")] = False,
    fleet: Fleet = "default",
    address: Address = "auto",
    cpu: Annotated[bool, typer.Option("--cpu", help="Without cards: all models on CPUs.")] = False,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs that Ray sets apart for each worker.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float64.", show_default="auto")] = None,
    autoscale: Autoscale = "",
    scale_up_after: UpAfter = 5,
    scale_down_after: DownAfter = 300,
    listen_host: Annotated[
        str, typer.Option(metavar="HOST", help="Where all serve.", show_default="each node's address in Ray")
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve without TLS and keys to whoever reaches the nodes.")
    ] = False,
    slm_arg: Annotated[list[str] | None, _of_part("SLM workers", "--slm-arg=--kv-tokens=8192")] = None,
    llm_arg: Annotated[list[str] | None, _of_part("LLM workers", "--llm-arg=--max-batch-tokens=2048")] = None,
    router_arg: Annotated[list[str] | None, _of_part("routers", "--router-arg=--tau=0.05")] = None,
    gateway_arg: Annotated[list[str] | None, _of_part("gateways", "--gateway-arg=--keepalive-s=5")] = None,
    within: Within = 60.0,
    timeout: Timeout = 600.0,
) -> None:
    """Starts a fleet and returns once it works; with --address local it runs until Ctrl-C."""
    check_fleet(fleet)
    bounds = parse_bounds(autoscale, "--autoscale")
    if cpu and tp > 1:
        raise invalid("--tp", "there are no cards to spread over.", "Leave out --cpu, or --tp.")
    models = {"slm": model_of("slm", slm_model) or BUNDLED["slm"], "llm": model_of("llm", llm_model) or BUNDLED["llm"]}
    if not address.startswith(_FAR):  # from here the nodes' Redis may be out of reach
        check_redis(redis or None)
    host = listen_host or ("127.0.0.1" if address == joining.LOCAL else "")
    locked = ["--insecure"] if insecure else []
    given = {"slm": slm_arg or [], "llm": llm_arg or [], "router": router_arg or [], "gateway": gateway_arg or []}
    flags = {part: (*args_of(part, given[part]), *locked) for part in given}
    check_exposed(host, flags, has_redis=bool(redis), has_gateway=http)
    cards = {"slm": 0 if cpu else 1, "llm": 0 if cpu else tp}
    device = ["--device", "cpu", "--threads", str(cpus)] if cpu else ["--device", "cuda"]
    made = {}
    for role in ROLES:
        spread = ["--tp", str(tp)] if role == "llm" and tp > 1 else []
        typed = ["--dtype", dtype] if dtype else []
        args = ("--model", models[role], *device, *typed, *spread, *flags[role])
        made[role] = Workers(role, args, num_cards=cards[role], num_cpus=cpus)
    plan = Plan(
        fleet,
        made["slm"],
        made["llm"],
        Routers(flags["router"], flags["gateway"] if http else None),
        redis,
        "" if redis else secrets.token_hex(16),
        {name: os.environ[name] for name in LOGIN if name in os.environ},
        host,
    )
    counts = {
        "slm": max(slm, bounds["slm"].low if "slm" in bounds else 1),
        "llm": max(llm, bounds["llm"].low if "llm" in bounds else 1),
        "router": routers,
    }
    scaling = Scaling(bounds, Patience(round(scale_up_after), round(scale_down_after)))
    most = {role: max(num, bounds[role].high if role in bounds else 0) for role, num in counts.items()}
    with stopped_by_signals(), joining.joined(address, fleet, cpus * (most["slm"] + most["llm"]) + routers):
        state = commands.start(plan, counts, scaling, within, timeout, err())
        _introduce(state, fleet, is_local=address == joining.LOCAL)
        if address == joining.LOCAL:
            _stay(fleet, within)


@app.command("status")
@command
def status(fleet: Fleet = "default", address: Address = "auto", json: Json = False) -> None:
    """Says what a fleet is made of, where it runs and what is amiss; exit code 1 if anything is."""
    with joining.joined(address, check_fleet(fleet)):
        state = ray.get(joining.keeper(fleet).look.remote())
        scaler = joining.scaler(fleet)
        scaling, last = ray.get([scaler.scaling.remote(), scaler.last_change.remote()]) if scaler else (None, "")
    if json:
        bounds = {role: str(each) for role, each in scaling.bounds.items()} if scaling else {}
        print_json(showing.as_json(state) | {"autoscale": bounds})
    else:
        print_whole(out(), showing.table(state))
        if scaling:
            bounded = ", ".join(f"{role}={each}" for role, each in scaling.bounds.items())
            err().print(f"scaled by load: {bounded}; last change: {last}", soft_wrap=True)
        for sentence in showing.amiss(state):
            err().print(sentence, style="yellow", soft_wrap=True, markup=False)
    if not all(map(state.is_ready, state.units)):
        raise typer.Exit(FAILED)


@app.command("scale")
@command
def scale(
    slm: Annotated[int | None, typer.Option(min=1, help="SLM workers.", show_default="as many as there are")] = None,
    llm: Annotated[int | None, typer.Option(min=1, help="LLM workers.", show_default="as many as there are")] = None,
    routers: Annotated[int | None, typer.Option(min=0, help="Routers.", show_default="as many as there are")] = None,
    autoscale: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE=LOW..HIGH,...", help="Scale by load from now on; off: no more.", show_default="as before"
        ),
    ] = None,
    scale_up_after: UpAfter = 5,
    scale_down_after: DownAfter = 300,
    fleet: Fleet = "default",
    address: Address = "auto",
    within: Within = 60.0,
    timeout: Timeout = 600.0,
) -> None:
    """Adds workers or routers, or drains some and takes them away: those with the fewest sessions."""
    wanted = {role: number for role, number in (("slm", slm), ("llm", llm), ("router", routers)) if number is not None}
    bounds = None if autoscale in (None, "off") else parse_bounds(autoscale or "", "--autoscale")
    if not wanted and autoscale is None:
        raise invalid("--slm", "nothing is to change.", "Say how many: --slm, --llm, --routers or --autoscale.")
    with joining.joined(address, check_fleet(fleet)):
        keeper, scaler = joining.keeper(fleet), joining.scaler(fleet)
        now = bounds if autoscale is not None else ray.get(scaler.scaling.remote()).bounds if scaler else {}
        for role in wanted.keys() & (now or {}).keys():
            remedy = "Give it other bounds with --autoscale, or say --autoscale off."
            raise invalid(f"--{role}", "this role is scaled by its load.", remedy)
        if autoscale is not None:
            patience = Patience(round(scale_up_after), round(scale_down_after))
            joining.set_scaler(fleet, Scaling(bounds, patience) if bounds else None, within)
        added: list[str] = []
        for role, number in wanted.items():
            added += ray.get(keeper.scale.remote(role, number, within))
        state = commands.wait(keeper, timeout, err(), added)
    print_whole(out(), showing.table(state))


@app.command("drain")
@command
def drain(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Such as slm-1, as `rstitch ray status` says.")],
    fleet: Fleet = "default",
    address: Address = "auto",
    within: Within = 60.0,
) -> None:
    """Takes workers or routers away once they are drained; exit code 1 if one had to be killed."""
    with joining.joined(address, check_fleet(fleet)):
        keeper = joining.keeper(fleet)
        known = {unit.id for unit in ray.get(keeper.look.remote()).units if unit.role != "redis"}
        for each in ids:
            if each not in known:
                raise invalid("ID", f"there is no {each[:40]!r}.", f"There are {', '.join(sorted(known)) or 'none'}.")
        _told_of(ray.get(keeper.drain.remote(ids, within)), within)
    for each in ids:
        err().print(f"{each} is gone")


@app.command("down")
@command
def down(fleet: Fleet = "default", address: Address = "auto", within: Within = 60.0) -> None:
    """Ends a fleet: routers first, then workers, each once its calls are over."""
    with joining.joined(address, check_fleet(fleet)):
        _told_of(joining.end(fleet, within), within)
    err().print(f"the fleet {fleet} is down")


def _told_of(killed: Sequence[str], within_s: float) -> None:
    if killed:
        print_error(f"not done within {within_s:g} s, and killed: {', '.join(killed)}.")
        raise typer.Exit(FAILED)


def _introduce(state: Any, fleet: str, *, is_local: bool) -> None:
    """Shows what there is, and says what to do next."""
    print_whole(out(), showing.table(state))
    console = err()
    named = "" if fleet == "default" else f" --fleet {fleet}"
    for each in showing.routers(state)[:1]:
        console.print(f'ask:  [bold]rstitch ask --router {each} "QUESTION"[/]', soft_wrap=True)
    for each in showing.gateways(state)[:1]:
        console.print(f"page and OpenAI's API: [bold]http://{each}[/]", soft_wrap=True)
    if is_local:
        console.print("Ctrl-C stops everything", style="dim")
    else:
        console.print(
            f"look: [bold]rstitch ray status{named}[/]; end: [bold]rstitch ray down{named}[/]", soft_wrap=True
        )


def _stay(fleet: str, within_s: float) -> None:
    """Waits for Ctrl-C, then ends the fleet, whose cluster ends with this program."""
    try:
        while True:
            time.sleep(_WATCH_S)
    except KeyboardInterrupt:
        err().print("stopping", style="dim")
        joining.end(fleet, within_s)


if __name__ == "__main__":
    app(prog_name="rstitch ray", args=sys.argv[1:])
