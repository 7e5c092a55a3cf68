"""`bench store`: whether what is kept stays as fast when it grows: pages, reading, claims and appends.

Two Redis servers, one with few trajectories and one with many, asked in turn by the router's own store: each operation
at one, then at the other. No workers, no wire of ours. What they begin with is copied from trajectories that the store
itself wrote; a tenant has a quarter of them, and a quarter have a label. On a busy machine the tail of what the clock
says is that of the machine; so what each operation computes is told beside it, here and in Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from evals.asking.values import counts
from evals.bench import page
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from router_svc.trajectory import keys
from router_svc.trajectory.listing import Cursor
from router_svc.trajectory.session_names import session_name
from router_svc.trajectory.store import Owned, TrajectoryStore
from router_svc.trajectory.types import (
    Chunk,
    FinishReason,
    Label,
    Source,
    State,
    SwitchReason,
    entropies_of,
    tokens_of,
)
from router_svc.trajectory.usage import Usage
from rstitch.local.part import redis_server
from rstitch.local.processes import free_port
from rstitch.local.readiness import redis_answers
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink

_TENANTS = ("", "acme")
_OTHERS = 4  # of so many trajectories one is the second tenant's, and one has a label
_PROMPT, _SEGMENT, _SEGMENTS = 40, 12, 6  # tokens
_PAGE = 20
_TTL_S = 86_400.0
_BATCH = 500
# In ms, p50 and p99: by the clock at the server with few, at the one with many; CPU of client and server, likewise; and
# how often the second is the first.
_COLUMNS: Columns = {
    "operation": "{operation}",
    "few": "{few_p50_ms:.1f}, {few_p99_ms:.1f}",
    "many": "{many_p50_ms:.1f}, {many_p99_ms:.1f}",
    "x": "{p50_ratio:.2f}, {p99_ratio:.2f}",
    "CPU few": "{few_cpu_p50_ms:.1f}, {few_cpu_p99_ms:.1f}",
    "CPU many": "{many_cpu_p50_ms:.1f}, {many_cpu_p99_ms:.1f}",
    "CPU x": "{cpu_p50_ratio:.2f}, {cpu_p99_ratio:.2f}",
}


@dataclass(frozen=True, kw_only=True)
class Options(page.PageOptions):
    """The options of `bench store`."""

    sizes: Annotated[Sequence[int], counts("Trajectories of the two servers.")] = (100, 100_000)
    rounds: Annotated[int, typer.Option(min=10, help="How often each operation is timed at each of them.")] = 2000


@dataclass
class Side:
    """One server: what it holds, and how long its operations took in s."""

    store: TrajectoryStore
    link: RedisLink
    num: int
    length: int = 0  # of what is being written
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)  # of client and server

    def name(self, place: int) -> str:
        """The name of one of its trajectories."""
        return session_name(_TENANTS[place % _OTHERS == 0], f"kept-{place}")


def run(options: Options) -> int:
    """Fills two servers and times operations at both in turn; returns the exit code."""
    few, many = sorted(options.sizes)[0], sorted(options.sizes)[-1]
    with tempfile.TemporaryDirectory(prefix="rstitch-store-") as folder, contextlib.ExitStack() as servers:
        urls = [servers.enter_context(_server(Path(folder))) for _ in range(2)]
        rows = asyncio.run(measure(urls, (few, many), options.rounds))
    console = Console()
    title = f"{few:,} and {many:,} stored trajectories, {options.rounds} operations each, pages of {_PAGE}"
    console.print(terminal_table(title, _COLUMNS, rows))
    page.finish(options, "store", {"rows": rows}, f"### {title}\n\n{markdown_table(_COLUMNS, rows)}\n\n", console)
    return 0


async def measure(urls: Sequence[str], sizes: Sequence[int], rounds: int) -> list[Row]:
    """Times each operation at both servers; a row for each."""
    sides = []
    for url, num in zip(urls, sizes, strict=True):
        address = RedisAddress(url)
        side = Side(TrajectoryStore(address, ttl_s=_TTL_S, patience_s=1), RedisLink(address, 1), num)
        await _fill(side)
        sides.append(side)
    dice = random.Random(1)
    for place in range(rounds):
        for side in sides if place % 2 else reversed(sides):
            for operation, call in (await _operations(side, place, dice)).items():
                served = await _server_cpu_s(side)
                begin, computed = time.perf_counter(), time.thread_time()
                await call()
                seconds, cpu_s = time.perf_counter() - begin, time.thread_time() - computed
                side.seconds.setdefault(operation, []).append(seconds)
                side.cpu_s.setdefault(operation, []).append(cpu_s + await _server_cpu_s(side) - served)
            await side.store.delete(f"new-{place}")
    for side in sides:
        await side.store.close()
        await side.link.close()
    return [_row(operation, *sides) for operation in sides[0].seconds]


async def _operations(side: Side, place: int, dice: random.Random) -> dict[str, Callable[[], Awaitable[object]]]:
    """What is timed in one round; the order matters, as an append follows the claim."""
    name = side.name(dice.randrange(side.num))
    deep = await _cursor(side, dice)
    side.length, owned = _PROMPT, Owned(1, "bench")

    async def append() -> None:
        await side.store.append(f"new-{place}", owned, side.length, [_segment(side.length)], Usage())
        side.length += _SEGMENT

    claim = partial(side.store.claim, None, f"new-{place}", "bench", "{}", Usage(), [_prompt()])
    listed = partial(side.store.page, _PAGE)
    return {
        "claim": claim,
        "append": append,
        "append again": append,
        "get": partial(side.store.trajectory, name),
        "first page": partial(listed, None),
        "deep page": partial(listed, deep),
        "tenant's page": partial(listed, None, tenant=_TENANTS[1]),
        "labelled page": partial(listed, None, labelled=True),
    }


async def _cursor(side: Side, dice: random.Random) -> Cursor:
    """Where a page in the midst begins; with room for a whole one behind it."""
    place = dice.randrange(side.num // 3, side.num // 2)
    return _time_ms(side, place - place % _OTHERS + 1), f"kept-{place - place % _OTHERS + 1}"


async def _fill(side: Side) -> None:
    """Writes one trajectory of each kind through the store, then copies of what that made of it."""
    for place in range(2):
        name = side.name(place)
        owned = await side.store.claim(None, name, "bench", "{}", Usage(), [_prompt()])
        assert isinstance(owned, Owned)
        length, end = _PROMPT, (Usage(num_llm_tokens=1), State.FINISHED, FinishReason.STOP)
        segments = [_segment(_PROMPT + number * _SEGMENT) for number in range(_SEGMENTS)]
        await side.store.append(name, owned, length, segments, *end)
        await side.store.label(name, Label.RIGHT)
    header = await side.link.command("HGETALL", keys.trajectory(side.name(0)))
    entries = await side.link.command("XRANGE", keys.chunks(side.name(0)), "-", "+")
    places = range(side.num)
    for batch in (places[at : at + _BATCH] for at in range(0, side.num, _BATCH)):
        commands = [command for place in batch for command in _copy(side, place, header, entries)]
        await side.link.together(*commands)


def _copy(side: Side, place: int, header: dict[bytes, bytes], entries: Any) -> Iterator[tuple[Any, ...]]:
    """The commands that keep one trajectory."""
    name, ttl_ms = side.name(place), int(_TTL_S * 1000)
    its, session_id = keys.of_session(name), f"kept-{place}"
    fields = {**header, b"updated": str(_time_ms(side, place)).encode()}
    has_label = place // _OTHERS % _OTHERS == 0
    if not has_label:
        fields = {key: value for key, value in fields.items() if not key.startswith(b"label")}
    yield "DEL", its.trajectory, its.chunks
    yield "HSET", its.trajectory, *(part for pair in fields.items() for part in pair)
    for _, entry in entries:
        yield "XADD", its.chunks, "*", *(part for pair in entry.items() for part in pair)
    for key in (its.trajectory, its.chunks):
        yield "PEXPIRE", key, ttl_ms
    yield "ZADD", its.listing, _time_ms(side, place), session_id
    yield ("ZADD", its.labelled, _time_ms(side, place), session_id) if has_label else ("ZREM", its.labelled, session_id)


def _time_ms(side: Side, place: int) -> int:
    """When a trajectory changed last: a few in each millisecond, in the future, so that none is forgotten."""
    return 2_000_000_000_000 + place // 3 - side.num


def _prompt() -> Chunk:
    return Chunk(Source.PROMPT, 0, tokens_of(range(_PROMPT)), entropies_of([]), SwitchReason.NONE, 0.0)


def _segment(position: int) -> Chunk:
    tokens, entropies = tokens_of(range(_SEGMENT)), entropies_of([0.5] * _SEGMENT)
    source = Source.SLM if position // _SEGMENT % 2 else Source.LLM
    return Chunk(source, position, tokens, entropies, SwitchReason.ENTROPY_ABOVE, 0.5)


async def _server_cpu_s(side: Side) -> float:
    """What a server has computed since it started, with the question itself: a few hundredths of a millisecond."""
    found: dict[str, float] = await side.link.command("INFO", "cpu")
    return found["used_cpu_user"] + found["used_cpu_sys"]


def _row(operation: str, few: Side, many: Side) -> Row:
    row: Row = {"operation": operation}
    for name, side in (("few", few), ("many", many)):
        for kind, seconds in (("", side.seconds[operation]), ("cpu_", side.cpu_s[operation])):
            row[f"{name}_{kind}p50_ms"] = 1000 * median(seconds)
            row[f"{name}_{kind}p99_ms"] = 1000 * sorted(seconds)[int(0.99 * (len(seconds) - 1))]
    for what in ("p50", "p99", "cpu_p50", "cpu_p99"):
        row[f"{what}_ratio"] = row[f"many_{what}_ms"] / row[f"few_{what}_ms"]
    return row


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A Redis of the bench's own that writes no file; gives its URL."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    command = [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with (folder / f"redis-{port}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not redis_answers(url):
            if process.poll() is not None:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.02)
        yield url
    finally:
        process.kill()
        process.wait()
