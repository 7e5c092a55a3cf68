"""What `rstitch ray` is told of its parts, checked before anything starts: models take long to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rstitch.errors import invalid
from rstitch.limits import is_loopback

# What is told here, or by Ray.
_OWN = {
    "slm": ("--listen", "--shared-listen", "--model", "--device", "--dtype", "--tp", "--redis", "--fleet"),
    "router": ("--listen", "--slm", "--llm", "--redis", "--fleet"),
    "gateway": ("--http-listen", "--router"),
}
_OWN["slm"] += ("--worker-id", "--advertise", "--drain-grace-s")
_OWN["llm"] = _OWN["slm"]
# Of each of these, one flag is enough to know who calls.
_WHO = {"slm": ("--keys-file", "--tls-client-ca"), "llm": ("--keys-file", "--tls-client-ca"), "router": ("--keys",)}


def args_of(part: str, given: Sequence[str]) -> Sequence[str]:
    """Gives the flags of a part back (said as --PART-arg). Raises RstitchError if one is none, or not for it to say."""
    for each in given:
        name = each.partition("=")[0]
        if not name.startswith("--") or " " in name:
            raise invalid(f"--{part}-arg", f"{each!r} is no flag.", f"Write --{part}-arg=--NAME=VALUE.")
        if name in _OWN[part]:
            remedy = "Leave it out; `rstitch ray up --help` has what it can be told."
            raise invalid(f"--{part}-arg", f"{name} is set for each {part} by itself.", remedy)
    return given


def model_of(role: str, given: str | None) -> str:
    """The model as every node finds it, "" for the bundled one. Raises RstitchError for a folder that holds none."""
    if given is None:
        return ""
    folder = Path(given).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        remedy = "Name the folder that holds it."
        raise invalid(f"--{role}-model", f"{given} holds no model (no config.json).", remedy)
    if not folder.is_dir() and given.startswith("."):
        raise invalid(f"--{role}-model", f"{given} is no folder.", "Write a folder of every node, or owner/name.")
    return str(folder.resolve()) if folder.is_dir() else given


def check_exposed(listen_host: str, flags: Mapping[str, Sequence[str]], *, has_redis: bool, has_gateway: bool) -> None:
    """Refuses to open parts to the network without a lock: on its node each would refuse that itself, over and over.

    Args:
        listen_host: where all serve; "": where Ray's nodes reach one another.
        flags: of each part.
        has_redis: whether it is another's; the fleet's own talks no TLS.
    """
    if (listen_host and is_loopback(f"{listen_host}:0")) or "--insecure" in flags["slm"]:
        return
    how = "or say --insecure if nobody but you can reach the nodes."
    for part in ("slm", "llm", "router"):
        names = {flag.partition("=")[0] for flag in flags[part]}
        if "--tls-cert" not in names or not names & set(_WHO[part]):
            what = "workers and routers would be open to the network, without TLS or without a way to know who calls."
            who = " or ".join(_WHO[part])
            raise invalid(f"--{part}-arg", what, f"Give --tls-cert, --tls-key and {who} (docs/security.md), {how}")
    if has_gateway and "--http-tls-cert" not in {flag.partition("=")[0] for flag in flags["gateway"]}:
        raise invalid("--gateway-arg", "HTTP would be open to the network without TLS.", f"Give --http-tls-cert, {how}")
    if not has_redis:
        raise invalid("--redis", "a Redis of the fleet's own talks no TLS.", f"Name one of yours, {how}")
