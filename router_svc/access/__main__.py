"""`rstitch keys`: who may call, and how much. A new secret is all that goes to stdout, and that only once."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from router_svc.access import changes
from router_svc.access.changes import Keys
from rstitch.cli.common import Json, command, err, out, print_json, print_whole
from rstitch.errors import invalid
from rstitch.service import key_file
from rstitch.service.caller import Limits, Scope
from rstitch.service.keys import Key

if TYPE_CHECKING:
    from router_svc.access.quotas import Use
    from storage.redis_address import RedisAddress

_T = TypeVar("_T")
_REDIS_VARIABLES = ("CA", "CERT", "KEY", "PASSWORD_FILE", "SENTINEL_PASSWORD_FILE")
_PATIENCE_S = 2.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

app = typer.Typer(
    name="rstitch keys",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Makes and revokes the keys that callers show. A router (--keys) and workers (--keys-file) find them by "
    "themselves: a change holds within 5 s.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Redis = Annotated[
    str,
    typer.Option(
        "--redis",
        envvar="RSTITCH_REDIS",
        metavar="URL",
        help="The Redis of the routers; also RSTITCH_REDIS_CA, _CERT, _KEY, _PASSWORD_FILE.",
    ),
]
File = Annotated[Path | None, typer.Option("--file", metavar="PATH", help="A file of keys, in place of Redis.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Of the key, as ls says it.")]


@app.command("add")
@command
def add(
    tenant: Annotated[str, typer.Option(help="Whose it is: keys of one tenant see the same sessions and profiles.")],
    scope: Annotated[list[str], typer.Option(metavar="SCOPE,...", help=f"What it is for: {', '.join(Scope)}.")],
    expires: Annotated[str, typer.Option(help="So long it holds, such as 90d, 12h, 30m, 45s; or never.")] = "never",
    requests_per_minute: Annotated[int, typer.Option(min=0, help="Most requests in any minute; 0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="Most tokens in any minute; 0: no limit.")] = 0,
    llm_tokens_per_minute: Annotated[int, typer.Option(min=0, help="Most of the LLM's; 0: no limit.")] = 0,
    max_running: Annotated[int, typer.Option(min=0, help="Most answers at once; 0: no limit.")] = 0,
    max_trajectories: Annotated[int, typer.Option(min=0, help="Most trajectories that are kept; 0: no limit.")] = 0,
    redis: Redis = "",
    file: File = None,
) -> None:
    """Makes a key and prints its secret, which nobody can print again."""
    limits = Limits(requests_per_minute, tokens_per_minute, llm_tokens_per_minute, max_running, max_trajectories)
    lifetime_s = None if expires == "never" else _seconds(expires, "--expires")
    key, secret = changes.made(tenant, _scopes(scope), limits, lifetime_s, time.time())
    _change(redis, file, lambda keys: keys.update({key.id: key}))
    _hand_over(key, secret)


@app.command("ls")
@command
def ls(redis: Redis = "", file: File = None, json: Json = False) -> None:
    """Lists the keys, without what they are recognised by."""
    keys = sorted(_change(redis, file, lambda keys: list(keys.values())), key=lambda key: (key.tenant, key.created))
    if json:
        for key in keys:
            print_json(_as_dict(key))
        return
    if not keys:
        err().print("no keys yet; rstitch keys add --tenant NAME --scope generate makes one")
        return
    columns = ("id", "tenant", "scopes", "limits", "made", "expires", "state")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for key in keys:
        limits = " ".join(f"{name}={value}" for name, value in asdict(key.limits).items() if value)
        scopes = " ".join(sorted(key.scopes))
        table.add_row(key.id, key.tenant, scopes, limits, _time(key.created), _time(key.expires), _state(key))
    print_whole(out(), table)


@app.command("rotate")
@command
def rotate(
    key_id: Id,
    grace: Annotated[str, typer.Option(help="So long the old one holds at most, such as 24h.")] = "24h",
    redis: Redis = "",
    file: File = None,
) -> None:
    """Makes a second key with the same rights; both hold until the old one's grace is over."""
    grace_s = _seconds(grace, "--grace")
    key, secret = _change(redis, file, lambda keys: changes.rotate(keys, key_id, grace_s, time.time()))
    _hand_over(key, secret)
    err().print(f"{key_id} holds for {grace} more at most.", soft_wrap=True)


@app.command("rm")
@command
def rm(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Of the keys, as ls says them.")],
    forget: Annotated[bool, typer.Option("--forget", help="Let ls not name them any more.")] = False,
    redis: Redis = "",
    file: File = None,
) -> None:
    """Revokes keys: within 5 s no call that shows them is let in. What is being answered goes on."""

    def edit(keys: Keys) -> None:
        for key_id in ids:
            if forget:
                changes.forget(keys, key_id)
            else:
                changes.revoke(keys, key_id, time.time())

    _change(redis, file, edit)
    for key_id in ids:
        err().print(f"revoked {key_id}")


@app.command("usage")
@command
def usage(
    key_id: Annotated[
        str, typer.Argument(metavar="[ID]", help="Of the key, as ls says it; all that have limits.")
    ] = "",
    ttl_s: Annotated[float, typer.Option(envvar="RSTITCH_TTL_S", min=0, help="--ttl-s of the routers.")] = 86_400,
    redis: Redis = "",
    file: File = None,
    json: Json = False,
) -> None:
    """Says what keys take of their limits at the moment, over all routers on that Redis."""
    found = [key for key in _change(redis, file, lambda keys: list(keys.values())) if key_id in ("", key.id)]
    if key_id and not found:
        raise invalid("ID", f"there is no key {key_id[:40]!r}.", "rstitch keys ls says which there are.")
    if not redis:
        raise invalid("--redis", "where do the routers count?", "Give --redis URL (or RSTITCH_REDIS), too.")
    limited = [key for key in found if key.limits != Limits()]
    used = asyncio.run(_uses(redis, ttl_s, limited))
    if json:
        for key, use in zip(limited, used, strict=True):
            print_json({"id": key.id, "tenant": key.tenant, "used": asdict(use), "limits": asdict(key.limits)})
        return
    table = Table("id", "tenant", *(field.name for field in fields(Limits)), box=None, padding=(0, 2, 0, 0))
    for key, use in zip(limited, used, strict=True):
        shares = [
            f"{num}/{limit}" if limit else "" for num, limit in zip(astuple(use), astuple(key.limits), strict=True)
        ]
        table.add_row(key.id, key.tenant, *shares)
    print_whole(out(), table)


async def _uses(redis: str, ttl_s: float, found: list[Key]) -> list[Use]:
    from router_svc.access.quotas import Quotas
    from storage.redis_link import RedisLink

    quotas = Quotas(RedisLink(_address(redis), _PATIENCE_S), "", lease_s=0, ttl_s=ttl_s)
    try:
        return [await quotas.use(key.caller()) for key in found]
    finally:
        await quotas.close()


def _change(redis: str, file: Path | None, edit: Callable[[Keys], _T]) -> _T:
    """Lets `edit` look at the keys and change them, where they are. Raises RstitchError."""
    if file is not None:
        try:
            with key_file.locked(file):
                before = key_file.load(file)
                after = dict(before)
                made = edit(after)
                if after != before:
                    key_file.save(file, after)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise invalid("--file", f"{file} cannot be used: {why}.", "Name a file in a folder of yours.") from error
        return made
    if not redis:
        raise invalid("--redis", "where are the keys?", "Give --redis URL (or RSTITCH_REDIS), or --file PATH.")
    return asyncio.run(_change_in_redis(redis, edit))


async def _change_in_redis(url: str, edit: Callable[[Keys], _T]) -> _T:
    from router_svc.access.key_store import KeyStore  # redis is not there wherever a file is edited

    store = KeyStore(_address(url), _PATIENCE_S)
    try:
        return await store.change(edit)
    finally:
        await store.close()


def _address(url: str) -> RedisAddress:
    """What lets the router in lets this in: the variables of its flags --redis-ca and so on."""
    from storage.redis_address import RedisAddress

    return RedisAddress(url, *(os.environ.get(f"RSTITCH_REDIS_{name}", "") for name in _REDIS_VARIABLES))


def _hand_over(key: Key, secret: str) -> None:
    until = f"until {_time(key.expires)}" if key.expires is not None else "until it is revoked"
    scopes = ", ".join(sorted(key.scopes))
    err().print(f"key {key.id} of {key.tenant} for {scopes}, {until}. Its secret is shown this once:", soft_wrap=True)
    typer.echo(secret)


def _scopes(words: list[str]) -> set[Scope]:
    named = {word.strip() for several in words for word in several.split(",")} - {""}
    unknown = sorted(named - set(Scope))
    if unknown:
        raise invalid("--scope", f"{unknown[0][:40]!r} is none.", f"Scopes are {', '.join(Scope)}.")
    return {Scope(word) for word in named}


def _seconds(text: str, flag: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not found:
        raise invalid(flag, "it is no time.", "Write a number and s, m, h or d, such as 90d.")
    return int(found[1]) * _UNITS[found[2]]


def _time(moment: int | None) -> str:
    return "never" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%F %T}Z"


def _state(key: Key) -> str:
    if key.revoked is not None:
        return f"revoked {_time(key.revoked)}"
    state = "holds" if key.holds(time.time()) else "expired"
    return f"{state}, replaced by {key.replaced_by}" if key.replaced_by else state


def _as_dict(key: Key) -> dict[str, Any]:
    told = asdict(key) | {"scopes": sorted(key.scopes), "holds": key.holds(time.time())}
    del told["sha256"]
    return told


if __name__ == "__main__":
    app(prog_name="rstitch keys", args=sys.argv[1:])
