"""What a fleet is made of, as values: units that Ray places, and the programs of ours that run in each.

It starts nothing. Words in braces stand for what only the node knows that a unit is placed on (`host` fills them in).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from launching.scaling import Bounds, Patience
from rstitch.errors import invalid
from rstitch.limits import GATEWAY_PORT, ROUTER_PORT

PYTHON = "{python}"
REDIS_SERVER = "{redis-server}"
ADDRESS = "{address}"  # HOST:PORT where the program serves
FIRST = "{first}"  # the same of the unit's first program
CONFIG = "{config}"  # a file that holds the program's `config`
BUNDLED = {"slm": "{tiny-slm}", "llm": "{tiny-llm}"}  # folders of the bundled models
HEADS = "{heads}"

ROLES = ("slm", "llm")
# As routers and workers take it both.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
# The bound of a drain is its caller's, who kills what is left.
_DRAIN = ("--drain-grace-s", "86400")


@dataclass(frozen=True, slots=True)
class Program:
    """One process of a unit."""

    name: str
    command: tuple[str, ...]
    port: int = 0  # it would like to serve on; 0: any
    env: Mapping[str, str] = field(default_factory=dict)
    config: str = ""  # text of a file that only its user may read; {host} and {port} are filled in


@dataclass(frozen=True, slots=True)
class Unit:
    """What one actor keeps running on one node, with the cards and cores that Ray sets apart for it."""

    id: str
    role: str  # slm, llm, router or redis
    programs: tuple[Program, ...]
    num_cards: int = 0
    num_cpus: float = 1.0
    on_head: bool = False  # where the cluster has its head, whose loss is the cluster's
    listen_host: str = ""  # of all its programs; "": the node's address


@dataclass(frozen=True, slots=True)
class Workers:
    """How the workers of a role are started."""

    role: str
    args: tuple[str, ...]  # flags beside those that are said here
    module: str = ""  # python -m MODULE; "": the role's own
    num_cards: int = 0  # of Ray, which shows it no others; 0: none
    num_cpus: int = 1


@dataclass(frozen=True, slots=True)
class Routers:
    """How routers are started, and in front of each a gateway where there are flags for it."""

    args: tuple[str, ...] = ()
    gateway_args: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet but for its size: how more of each is started at any time."""

    fleet: str
    slm: Workers
    llm: Workers
    routers: Routers = Routers()
    redis_url: str = ""  # "": a Redis of its own on the head's node, whose password is below
    redis_password: str = field(default="", repr=False)
    redis_login: Mapping[str, str] = field(default_factory=dict)  # RSTITCH_REDIS_CA and so on
    listen_host: str = ""  # "": each node's address

    def unit(self, role: str, number: int, redis_url: str) -> Unit:
        """The unit of a role with this number; only the Redis needs no URL of one."""
        if role == "redis":
            return self._redis(number)
        known = {"RSTITCH_REDIS": redis_url, "RSTITCH_FLEET": self.fleet, **self.redis_login}
        if role == "router":
            return self._router(number, known)
        workers = self.slm if role == "slm" else self.llm
        unit_id = f"{role}-{number}"
        command = (PYTHON, "-m", workers.module or f"{role}_worker", "--listen", ADDRESS, *_DRAIN, *workers.args)
        threads = {"OMP_NUM_THREADS": str(workers.num_cpus), "OMP_WAIT_POLICY": "PASSIVE"}
        worker = Program("worker", command, env={**known, **threads, "RSTITCH_WORKER_ID": unit_id})
        return Unit(unit_id, role, (worker,), workers.num_cards, workers.num_cpus, listen_host=self.listen_host)

    def _router(self, number: int, known: Mapping[str, str]) -> Unit:
        command = (PYTHON, "-m", "router_svc", "--slm", "", "--llm", "", "--listen", ADDRESS, *self.routers.args)
        env = {**known, "OMP_NUM_THREADS": "1", "RSTITCH_HEADS": HEADS}
        programs = [Program("router", command, ROUTER_PORT + number, env)]
        if self.routers.gateway_args is not None:
            command = (PYTHON, "-m", "gateway", "--http-listen", ADDRESS, "--router", FIRST, *self.routers.gateway_args)
            programs.append(Program("gateway", command, GATEWAY_PORT + number))
        return Unit(f"router-{number}", "router", tuple(programs), listen_host=self.listen_host)

    def _redis(self, number: int) -> Unit:
        # A password in the command would be everybody's on that machine.
        config = "bind {host}\nport {port}\nsave ''\nappendonly no\n" + f"requirepass {self.redis_password}\n"
        program = Program("redis", (REDIS_SERVER, CONFIG), env={"LC_ALL": "C"}, config=config)
        return Unit(f"redis-{number}", "redis", (program,), on_head=True, num_cpus=0, listen_host=self.listen_host)

    def redis_at(self, address: str) -> str:
        """URL of the Redis of its own, once it is known where that serves."""
        return f"redis://:{self.redis_password}@{address}/0"


@dataclass(frozen=True, slots=True)
class Scaling:
    """Roles that are scaled by what their workers announce, and how."""

    bounds: Mapping[str, Bounds]
    patience: Patience = field(default_factory=Patience)
    look_s: float = 1.0


def check_fleet(name: str) -> str:
    """Gives a fleet's name back. Raises RstitchError if it is none."""
    if not re.fullmatch(_NAME, name):
        remedy = "Write letters, digits, dots, dashes and underscores; the first is a letter or a digit."
        raise invalid("--fleet", f"{name[:40]!r} is no name.", remedy)
    return name
