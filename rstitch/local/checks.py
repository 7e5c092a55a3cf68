"""What of a local stack cannot work, said before any part is started: models take long to load. It starts nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rstitch.errors import invalid
from rstitch.local.options import WorkerOptions
from rstitch.local.part import StackError
from rstitch.local.processes import is_free
from rstitch.local.readiness import is_url, refuses_connections, without_secrets

# What a stack tells its parts itself, by which it finds them afterwards.
_OWN = {
    "router": ("--listen", "--slm", "--llm", "--redis", "--fleet"),
    "worker": ("--listen", "--shared-listen", "--model", "--device", "--dtype", "--redis", "--fleet", "--worker-id"),
}
_DTYPES = ("auto", "float32", "bfloat16", "float64")


def check_flags(flag: str, given: Sequence[str]) -> None:
    """Refuses flags of a part (all under `flag`, such as --slm-arg) that are none, or that the stack sets itself."""
    own = _OWN["router" if flag == "--router-arg" else "worker"]
    for each in given:
        name = each.partition("=")[0]
        if not name.startswith("--") or " " in name:
            raise invalid(flag, f"{each!r} is no flag.", f"Write {flag}=--NAME=VALUE.")
        if name in own:
            raise invalid(
                flag, f"{name} is set by the stack.", "Leave it out; `rstitch up --help` has what it can be told."
            )


def check_worker(role: str, options: WorkerOptions) -> None:
    """Refuses what a worker of `role` (slm or llm) could say only once its libraries are loaded."""
    if not all(re.fullmatch(r"cpu|cuda(:\d+)?", device.strip()) for device in options.device.split(",")):
        raise invalid("--device", f"{options.device!r} is no device.", "Write cpu, or cuda:N.")
    if options.dtype is not None and options.dtype not in _DTYPES:
        raise invalid("--dtype", f"{options.dtype!r} is none.", f"Choose one of {', '.join(_DTYPES)}.")
    if options.model is not None:
        _check_model(f"--{role}-model", options.model)
    check_flags(f"--{role}-arg", options.args)


def _check_model(flag: str, model: str) -> None:
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise invalid(flag, f"{model} holds no model (no config.json).", "Name the folder that holds it.")
    elif model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise invalid(flag, f"{model} is no folder, and no hub id.", "Write a folder, or owner/name.")


def check_port(port: int, part: str, remedy: str) -> None:
    """Refuses a port that is taken; its part could say it only after the models are loaded. 0 is any."""
    if port and not is_free(port):
        raise StackError(f"port {port} is in use.", part=part, remedy=f"Is a stack running already? Else {remedy}")


def check_redis(url: str | None) -> None:
    """Refuses a URL that is none, or for which nobody listens; None is a Redis of the stack's own."""
    if url is not None and not is_url(url):
        remedy = "Write redis://user:password@host:port/number, and in a password %2F for / and %40 for @."
        raise StackError("--redis is no URL of a Redis.", part="redis", remedy=remedy)
    if url is not None and refuses_connections(url):
        remedy = "Start it, correct --redis, or leave it out: then the stack starts one of its own."
        raise StackError(f"no Redis answers at {without_secrets(url)}.", part="redis", remedy=remedy)
