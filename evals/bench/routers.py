"""`bench routers`: what a token costs a router, and how much more two routers carry than one.

Redis, wire, routers and clients are the real ones. The workers are toys that cost nothing to wait for (`toy_worker`):
segments of some twenty tokens, a switch after each. Routers take turns on the same workers and Redis, so a ratio is of
neighbours in time. What a router costs is its process's CPU time over the tokens that its clients got, which says more
than time does on a busy machine; tokens a second say nothing where workers, clients and Redis have no cores to spare.

With `--cores` each router is held to a part of a core, so that routers are the limit even where all share two cores:
two routers' tokens over one's then say what a second one adds. With `--before` a router of another checkout takes its
turn, too: what a change makes of the cost. With `--together` it is asked at the same time as this one's, so that
whatever else the machine does is done to both. On Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from evals.bench import page
from evals.bench.held import can_hold, held
from evals.bench.in_turn import median_ratio
from evals.bench.metered import cpu_s
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.options import many
from rstitch.cli.progress import stopped_by_signals
from rstitch.local.options import ROUTER_MODULE
from rstitch.local.part import ROOT, Part, StackError, bundled_model, redis_server
from rstitch.local.processes import ChildProcess, free_port, is_free
from rstitch.local.readiness import is_serving, redis_answers
from rstitch.local.reaper import Reaper

_BEFORE, _ONE, _TWO = "before", "one router", "two routers"
_HOST = "127.0.0.1"
_START_S, _STOP_S = 60.0, 10.0
_SLACK_S = 30.0  # for a client to end, once its streams are cut off
_NOTE = """ms: a worker's step. n: tokens of a worker's reply, and as clients were told them. router, Redis: CPU
microseconds a token, medians over turns. {streams} answers at once, a switch every {per_switch:.1f} tokens."""
_COLUMNS: Columns = {
    "": "{system}",
    "ms": "{step_ms:g}",
    "n": "{per_reply}",
    "tok/s": "{tokens_per_s:.0f}",
    "n told": "{per_chunk:.2f}",
    "router": "{router_us:.0f}",
    "Redis": "{redis_us:.0f}",
    "over before": "{cpu[value]:.2f} [{cpu[low]:.2f}, {cpu[high]:.2f}]",
    "tok/s over one": "{rate[value]:.2f} [{rate[low]:.2f}, {rate[high]:.2f}]",
}


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench routers`."""

    before: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A checkout whose router is asked in turn, on the same workers.")
    ] = None
    streams: Annotated[int, typer.Option(min=1, help="Answers at once, over all routers that are asked.")] = 32
    step_ms: Annotated[
        list[float], typer.Option(min=0, metavar="MS...", help="From token to token of a worker; 0: at once.")
    ] = many(20.0, 0.0)
    per_reply: Annotated[
        list[int], typer.Option(min=1, metavar="N...", help="Tokens in a worker's reply, behind a run's first.")
    ] = many(1, 4)
    segment: Annotated[float, typer.Option(min=1, help="Mean tokens of the SLM between two switches.")] = 20.0
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 400
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 6
    seconds: Annotated[float, typer.Option(min=0.5, help="Of a turn.")] = 5.0
    warm: Annotated[float, typer.Option(min=0, help="Seconds that clients have to come before a turn counts.")] = 3.0
    cores: Annotated[
        float | None, typer.Option(min=0.1, help="Hold each router to so many cores; who may make control groups can.")
    ] = None
    together: Annotated[bool, typer.Option(help="Ask one router and the other checkout's at once.")] = False
    two: Annotated[bool, typer.Option(help="Whether two routers take their turn.")] = True
    router_arg: Annotated[list[str], typer.Option(metavar="FLAG", help="More flags of each router.")] = many()


@dataclass(frozen=True, slots=True)
class _Turn:
    """What came in one turn, and the CPU seconds it took."""

    seconds: float
    tokens: int
    chunks: int
    switches: int
    routers_s: float
    redis_s: float

    @property
    def router_us(self) -> float:
        return 1e6 * self.routers_s / max(1, self.tokens)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(eq=False)
class _Stack:
    """Redis, two toys, and whoever is asked of the routers on them."""

    folder: Path
    reaper: Reaper
    parts: dict[str, Part] = field(default_factory=dict)
    systems: dict[str, list[str]] = field(default_factory=dict)  # routers by who is measured

    def add(self, name: str, command: Sequence[str], address: str, is_ready: Any, checkout: Path = ROOT) -> None:
        env = {"PYTHONPATH": str(checkout), "LC_ALL": "C", "TOKENIZERS_PARALLELISM": "false"}
        # The checkout's own modules, wherever this was called from.
        placed = ["env", "-C", str(checkout), *command]
        process = ChildProcess(name, placed, env, self.folder / f"{name.replace(' ', '-')}.log", self.reaper)
        self.parts[name] = part = Part(process, address, is_ready, _START_S)
        part.start()

    def cpu_s(self, *names: str) -> float:
        return sum(cpu_s(pid) for name in names if (pid := self.parts[name].process.pid) is not None)


def run(options: Options) -> int:
    """Measures and prints. Returns the exit code."""
    if options.cores is not None and not can_hold():
        what = "no process can be held to a part of a core: this user may make no control groups."
        raise StackError(what, remedy="Leave --cores out, or run as one who may (root, mostly).")
    console = Console()
    rows: list[Row] = []
    turns: list[dict[str, Any]] = []
    with stopped_by_signals():
        for step_ms in options.step_ms:
            for per_reply in options.per_reply:
                with _stack(options, step_ms, per_reply) as stack, _held(stack, options.cores):
                    found = _measure(stack, options)
                case = {"step_ms": step_ms, "per_reply": per_reply}
                rows += [{**case, **row} for row in _rows(found, is_alone=not options.together)]
                turns += [{**case, "system": name, **asdict(turn)} for name, its in found.items() for turn in its]
                console.print(f"{step_ms:g} ms a step, {per_reply} tokens a reply: done")
    console.print(terminal_table("routers", _COLUMNS, rows))
    note = _NOTE.format(streams=options.streams, per_switch=median(row["per_switch"] for row in rows))
    console.print(note, style="dim")
    text = f"{markdown_table(_COLUMNS, rows)}\n\n{note}"
    page.finish(options, "routers", {"rows": rows, "turns": turns}, text, console)
    return 0


@contextmanager
def _stack(options: Options, step_ms: float, per_reply: int) -> Iterator[_Stack]:
    with tempfile.TemporaryDirectory(prefix="rstitch-routers-") as name:
        stack = _Stack(Path(name), Reaper())
        try:
            _start(stack, options, step_ms, per_reply)
            yield stack
        finally:
            for part in reversed(stack.parts.values()):
                part.process.terminate()
                part.process.wait_or_kill(_STOP_S)
            stack.reaper.close()


def _held(stack: _Stack, cores: float | None) -> AbstractContextManager[None]:
    if cores is None:
        return nullcontext()
    pids = {name: pid for name in stack.systems if (pid := stack.parts[name].process.pid) is not None}
    return held(pids, cores)


def _start(stack: _Stack, options: Options, step_ms: float, per_reply: int) -> None:
    port = free_port()
    redis = f"redis://{_HOST}:{port}/0"
    kept = ["--save", "", "--appendonly", "no", "--dir", str(stack.folder)]
    command = [redis_server(), "--port", str(port), "--bind", _HOST, *kept]
    stack.add("redis", command, f"{_HOST}:{port}", lambda: redis_answers(redis))
    workers = {}
    for role in ("slm", "llm"):
        port = free_port()
        workers[role] = address = f"{_HOST}:{port}"
        # fmt: off
        command = [sys.executable, "-m", "evals.bench.toy_worker", "--role", role, "--listen", address,
                   "--files", bundled_model(f"tiny-{role}"), "--segment", str(options.segment),
                   "--tokens-per-reply", str(per_reply), "--step-ms", str(step_ms)]
        # fmt: on
        stack.add(role, command, address, partial(_listens, port))
    checkouts = {_ONE: ROOT, _TWO: ROOT, _BEFORE: options.before}
    for name, checkout in checkouts.items():
        if checkout is None or (name == _TWO and not options.two):
            continue
        if not (checkout / ROUTER_MODULE / "__main__.py").is_file():
            raise StackError(f"{checkout} is no checkout of rstitch.")
        address = f"{_HOST}:{free_port()}"
        # fmt: off
        command = [sys.executable, "-m", ROUTER_MODULE, "--slm", workers["slm"], "--llm", workers["llm"],
                   "--redis", redis, "--listen", address, *options.router_arg]
        # fmt: on
        stack.add(name, command, address, partial(is_serving, address, 1.0), checkout.resolve())
        stack.systems[name] = [_ONE, _TWO] if name == _TWO else [name]
    for part in stack.parts.values():
        part.wait_ready()


def _listens(port: int) -> bool:
    return not is_free(port)


def _measure(stack: _Stack, options: Options) -> dict[str, list[_Turn]]:
    """Lets each have its turn in each round, the first one last in the next."""
    found: dict[str, list[_Turn]] = {name: [] for name in stack.systems}
    turns = [[name] for name in stack.systems]
    if options.together and _BEFORE in stack.systems:
        turns = [[name for name in stack.systems if name != _TWO], *([_TWO] for _ in range(_TWO in stack.systems))]
    for index in range(options.rounds):
        for names in reversed(turns) if index % 2 else turns:
            for name, turn in _turn(stack, names, options).items():
                found[name].append(turn)
    return found


def _turn(stack: _Stack, systems: Sequence[str], options: Options) -> dict[str, _Turn]:
    """Asks for a while, and reads what the processes took meanwhile. Raises: StackError if a part or a client ends."""
    begin = time.monotonic() + options.warm
    end = begin + options.seconds
    clients = {
        system: [
            _readers(stack.parts[name].address, streams, options.max_new_tokens, begin, end)
            for name, streams in zip(routers, _shares(options.streams, len(routers)), strict=True)
        ]
        for system in systems
        for routers in (stack.systems[system],)
    }
    names = {"redis": ["redis"], **{system: stack.systems[system] for system in systems}}
    time.sleep(begin - time.monotonic())
    before, began = {name: stack.cpu_s(*its) for name, its in names.items()}, time.monotonic()
    time.sleep(end - time.monotonic())
    took, seconds = {name: stack.cpu_s(*its) - before[name] for name, its in names.items()}, time.monotonic() - began
    counted = {system: [_counted(client) for client in its] for system, its in clients.items()}
    for part in stack.parts.values():
        part.check()
    found = {}
    for system, its in counted.items():
        tokens, chunks, switches = (sum(count[name] for count in its) for name in ("tokens", "chunks", "switches"))
        found[system] = _Turn(seconds, tokens, chunks, switches, took[system], took["redis"] / len(systems))
    return found


def _shares(num: int, parts: int) -> list[int]:
    return [num // parts + (index < num % parts) for index in range(parts)]


def _readers(address: str, streams: int, max_new_tokens: int, begin: float, end: float) -> subprocess.Popen[str]:
    # fmt: off
    command = [sys.executable, "-m", "evals.bench.toy_readers", address, "--streams", str(streams),
               "--max-new-tokens", str(max_new_tokens), "--begin", str(begin), "--end", str(end)]
    # fmt: on
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE)


def _counted(client: subprocess.Popen[str]) -> dict[str, int]:
    try:
        told, _ = client.communicate(timeout=_SLACK_S)
    except subprocess.TimeoutExpired:
        client.kill()
        raise StackError("a client does not end.") from None
    if client.returncode:
        raise StackError("a client failed.", remedy="It says why above.")
    counts: dict[str, int] = json.loads(told)
    return counts


def _rows(found: dict[str, list[_Turn]], *, is_alone: bool) -> Iterator[Row]:
    """A row of each; how much more two routers carry can be told only if one was asked alone."""
    for name, turns in found.items():
        tokens = max(1, sum(turn.tokens for turn in turns))
        row: Row = {
            "system": name,
            "tokens_per_s": median(turn.tokens_per_s for turn in turns),
            "per_chunk": tokens / max(1, sum(turn.chunks for turn in turns)),
            "per_switch": tokens / max(1, sum(turn.switches for turn in turns)),
            "router_us": median(turn.router_us for turn in turns),
            "redis_us": 1e6 * sum(turn.redis_s for turn in turns) / tokens,
        }
        if _BEFORE in found and name != _BEFORE:
            costs, base = [turn.router_us for turn in turns], [turn.router_us for turn in found[_BEFORE]]
            row["cpu"] = asdict(median_ratio(costs, base))
        if name == _TWO and is_alone:
            rates, base = [turn.tokens_per_s for turn in turns], [turn.tokens_per_s for turn in found[_ONE]]
            row["rate"] = asdict(median_ratio(rates, base))
        yield row
