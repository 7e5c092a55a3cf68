"""`bench security`: what a lock costs, by routers with and without keys, quotas and TLS on the same workers and Redis.

The quotas are so large that they refuse nothing, and all of them are counted. TLS is between client and router.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console

from evals.asking.stack_options import StackOptions, StackThreads
from evals.asking.stacks import local_stack
from evals.bench import in_turn
from evals.figures.report import Columns
from router_svc.access.changes import made
from rstitch.authority import make_certificates
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.credentials import Credentials
from rstitch.local.stack import LocalStack
from rstitch.service.caller import Limits, Scope
from rstitch.service.key_file import save

_OPEN = "open"
_MANY = 10**9
_COUNTED = Limits(_MANY, _MANY, _MANY, _MANY, _MANY)
_LOCKS = {"keys": (Limits(), False), "keys, quotas": (_COUNTED, False), "keys, quotas, TLS": (_COUNTED, True)}
_COLUMNS: Columns = {
    "sessions": "{sessions}",
    "system": "{system}",
    "router with": "{door}",
    "pairs": "{pairs}",
    "ms open": "{base:.3f}",
    "ms with": "{own:.3f}",
    "with / open": "{ratio.value:.4f}",
    "95%": "[{ratio.low:.4f}, {ratio.high:.4f}]",
}


@dataclass(frozen=True, kw_only=True)
class Options(StackOptions, in_turn.TurnOptions):
    """The options of `bench security`."""

    threads: StackThreads = 1


def run(options: Options) -> int:
    """Starts one stack with a router for each lock, asks, prints. Returns the exit code."""
    console = Console()
    begin = in_turn.Begin()
    with stopped_by_signals(), ExitStack() as held:
        stack = local_stack(options)
        start(stack, console)
        held.callback(stack.stop)
        make_certificates(stack.folder / "certs", {}, days=1)
        doors = {_OPEN: (stack.router_address, Credentials())}
        doors |= {name: _router(stack, limits, with_tls=with_tls) for name, (limits, with_tls) in _LOCKS.items()}
        records = asyncio.run(in_turn.ask(doors, options, console))
    in_turn.report(records, _OPEN, _COLUMNS, "what a lock on the router costs", begin, options, console)
    return 0


def _router(stack: LocalStack, limits: Limits, *, with_tls: bool) -> tuple[str, Credentials]:
    """Starts a router that asks for a key with these limits; gives its address, and what it takes to be let in."""
    key, secret = made("bench", (Scope.GENERATE, Scope.TRAJECTORIES), limits, None, time.time())
    file, certs = stack.folder / f"{key.id}.json", stack.folder / "certs"
    save(file, {key.id: key})
    served = ["--tls-cert", str(certs / "router.pem"), "--tls-key", str(certs / "router.key")] if with_tls else []
    credentials = Credentials(tls_ca=str(certs / "ca.pem") if with_tls else "", api_key=secret)
    return stack.start_router("--keys", str(file), *served, credentials=credentials).address, credentials
