"""Trajectories in Redis, which are the truth: what is not stored was not written. It knows neither models nor wire.

A trajectory changes only through one of five Lua scripts. Redis runs nothing else while it runs a script, so that
between reading the header and writing the chunks nobody can come, and a reader finds both as they were at one moment.

    claim.lua    who writes from now on   expects all as it was read                   sets owner, epoch and RUNNING
    append.lua   what was written         expects its own epoch and its last length    adds chunks, sets length, state
    label.lua    whether it was right     expects a finished answer                    sets label, for that length
    cancel.lua   that it is to end        expects an answer that is being written      sets a mark, for that epoch
    bind.lua     who holds the session    expects its own epoch                        sets the ids of two workers

Epoch and length are the fence. The epoch shuts out a router that lost the session and does not know it yet: the
claim by another has raised it. The length makes a call that comes twice, because the reply to the first was lost, do
nothing the second time, and shows what a Redis that crashed has forgotten.

`delete` alone needs no script and no fence: it may come at any time, and what is gone refuses every later append.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

import structlog

from router_svc.trajectory import keys, leases
from router_svc.trajectory.answer_record import decode_header, encode_chunks, encode_usage
from router_svc.trajectory.append_metrics import AppendMetrics
from router_svc.trajectory.binding import FIELDS, UNBOUND, Binding, binding_of
from router_svc.trajectory.by_node import Append, CommitsByNode, Outcome, append_by_slot
from router_svc.trajectory.cancelling import Cancelling
from router_svc.trajectory.claim_script import ClaimScript
from router_svc.trajectory.errors import Behind, Fenced, deleted, lost, taken_over
from router_svc.trajectory.group_commit import GroupCommit
from router_svc.trajectory.listing import Listing
from router_svc.trajectory.rebinding import Rebinding
from router_svc.trajectory.session_names import id_in
from router_svc.trajectory.tailing import Entries, Tailing, decoded
from router_svc.trajectory.types import Chunk, FinishReason, Header, Label, State, Trajectory
from router_svc.trajectory.usage import Usage
from rstitch.service.metrics import NO_METRICS, Metrics
from storage.confirming import Confirming
from storage.passing import script_error
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from storage.scripts import Call

_log = structlog.get_logger(__name__)
# Appends of one call: after an outage each may have thousands of arguments, of which Redis 6.2 takes 2**20, and while
# the call runs Redis serves nobody else.
_MAX_APPENDS = 64


@dataclass(frozen=True, slots=True)
class Owned:
    """A claim went through; every append shows this epoch and this owner."""

    epoch: int
    owner: str


@dataclass(frozen=True, slots=True)
class OwnedElsewhere:
    """Another router's answer runs there, and its lease would run out in `lease_ms`.

    One call cannot tell a router that lives from one that died a moment ago. Whoever asks again and finds more left
    than before knows that the lease was renewed, so its owner lives; otherwise the lease runs out and the next claim
    succeeds.
    """

    lease_ms: int


class TrajectoryStore:
    """Reads, claims, extends, lists and deletes trajectories, and keeps the routers' leases beside them.

    Sessions go by their names here (`session_names`), but in headers and pages by their ids. A trajectory is forgotten
    `ttl_s` after its last change; a call is retried for `patience_s` while Redis is away. With `confirming` an append
    is done when replicas have it, and with it all that was written before.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        ttl_s: float,
        patience_s: float,
        metrics: Metrics = NO_METRICS,
        confirming: Confirming | None = None,
    ) -> None:
        self._ttl_ms = int(ttl_s * 1000)
        self._link = RedisLink(address, patience_s)
        # Appends come with every chunk of every answer: they have a connection of their own and share round trips.
        # Claims come once an answer and are sent like any command.
        self._append = self._link.script(_script("entries.lua", "append.lua"), confirming)
        commits = partial(CommitsByNode, self._append) if self._link.cluster is not None else GroupCommit
        self._commit = commits(AppendMetrics(metrics, confirming).timed(self._append_all), _MAX_APPENDS)
        self._claim = ClaimScript(self._link, _script("entries.lua", "claim.lua"), confirming)
        self._label = self._link.redis.register_script(_script("label.lua"))
        self.cancelling = Cancelling(self._link, self._ttl_ms)
        self.tailing = Tailing(self._link)
        self.rebinding = Rebinding(self._link)
        self.page = Listing(self._link).page

    async def close(self) -> None:
        await self._append.close()
        await self._claim.close()
        await self._link.close()

    async def header(self, name: str) -> Header | None:
        """A trajectory's header, without its tokens; None if it is unknown or was forgotten."""
        fields: dict[bytes, bytes] = await self._link.command("HGETALL", keys.trajectory(name))
        return decode_header(id_in(name), fields) if fields else None

    async def trajectory(self, name: str) -> Trajectory | None:
        """All of a trajectory as it was at one moment; None if it is unknown or was forgotten.

        Raises RstitchError (DATA_LOSS) if its chunks hold fewer tokens than its header says.
        """
        its = keys.of_session(name)
        both = ("HGETALL", its.trajectory), ("XRANGE", its.chunks, "-", "+")
        fields: dict[bytes, bytes]
        entries: Entries
        fields, entries = await self._link.at_once(its.trajectory, *both)
        if not fields:
            return None
        chunks = await decoded(entries)
        made = Trajectory(decode_header(id_in(name), fields), chunks)
        num = sum(len(chunk.tokens) for chunk in chunks)
        if num != made.header.length:
            how_to_keep = "Redis must not evict keys (maxmemory-policy noeviction)"
            raise lost(name, num, made.header.length, how_to_keep)
        return made

    async def claim(
        self,
        before: Header | None,
        name: str,
        router_id: str,
        settings: str,
        usage: Usage,
        chunks: Sequence[Chunk],
        binding: Binding = UNBOUND,
    ) -> Owned | OwnedElsewhere | None:
        """Makes `router_id` the owner and appends `chunks` (a prompt) in one step; the state is RUNNING then.

        Returns None if the trajectory is not as in `before` any more (without it: if there is one): read it again.
        """
        length = before.length if before else 0
        is_anothers = before is not None and before.state is State.RUNNING and before.owner != router_id
        left_ms = await leases.lease_ms(self._link, before.owner) if before is not None and is_anothers else 0
        reply = await self._link.call(
            lambda: self._claim(
                keys=keys.of_session(name),
                args=[
                    before.epoch if before else 0,
                    length,
                    length + sum(len(chunk.tokens) for chunk in chunks),
                    settings,
                    encode_usage(usage),
                    router_id,
                    _now_ms(),
                    self._ttl_ms,
                    id_in(name),
                    left_ms,
                    before.state.value if before else "",
                    *binding.values,
                    *encode_chunks(chunks),
                ],
            )
        )
        if reply[0] == b"OK":
            return Owned(int(reply[1]), router_id)
        return OwnedElsewhere(int(reply[1])) if reply[0] == b"OWNED" else None

    async def append(
        self,
        name: str,
        owned: Owned,
        length: int,
        chunks: Sequence[Chunk],
        usage: Usage,
        state: State = State.RUNNING,
        finish: FinishReason | None = None,
        patience_s: float | None = None,
    ) -> bool:
        """Appends `chunks` at `length` and sets state and usage. A call that is made again does nothing more.

        Returns whether somebody wants the answer to end.

        Calls for other sessions that come while one is under way share the next one; of each session there may be one
        call at a time, which is what the script relies on to tell a repetition.

        Raises: Fenced (ABORTED, TAKEN_OVER or DELETED); Behind; RstitchError (UNAVAILABLE) after the patience.
        """
        arguments = _append_arguments(name, owned, length, chunks, usage, state, finish)
        reply = await self._link.call(lambda: self._commit((name, arguments)), patience_s)
        match reply[0]:
            case b"OK":
                return False
            case b"CANCELLED":
                return True
            case b"LOST":
                raise taken_over(name)
            case b"GONE":
                raise deleted(name, Fenced)
            case _:
                raise Behind(int(reply[1]))

    def append_once(
        self,
        name: str,
        owned: Owned,
        length: int,
        chunks: Sequence[Chunk],
        usage: Usage,
        done: Callable[[bool | None], None],
    ) -> None:
        """Appends as `append` does, of an answer that goes on, and returns at once.

        `done`, which must not raise, is told what `append` would return; None: it is not known to be stored, for
        whatever reason. The same append by `append` then does what is to be done, or says why it cannot.
        """

        def told(reply: list[bytes] | Exception) -> None:
            word = b"" if isinstance(reply, Exception) else reply[0]
            done(False if word == b"OK" else True if word == b"CANCELLED" else None)

        self._commit.submit((name, _append_arguments(name, owned, length, chunks, usage, State.RUNNING, None)), told)

    async def _append_all(self, appends: list[Append]) -> Sequence[Outcome]:
        """Sends the appends of several sessions in one call; returns a reply or an error for each, in their order."""
        if self._link.cluster is not None:
            return await append_by_slot(self._append, appends, self._call_of, _outcomes_of)
        return _outcomes_of(await self._append(*self._call_of(appends)), len(appends))

    def _call_of(self, appends: Sequence[Append]) -> Call:
        names: list[str] = []
        arguments: list[Any] = [_now_ms(), self._ttl_ms]
        for name, of_session in appends:
            names += keys.of_session(name)[:3]
            arguments += of_session
        return names, arguments

    async def label(self, name: str, label: Label | None) -> State | None:
        """Labels the last answer if it is finished, or takes its label back; its time of change and expiry stay.

        Returns the state that it found: any but FINISHED, or None where there is no such trajectory, changed nothing.
        """
        its = keys.of_session(name)
        names = [its.trajectory, its.labelled]
        args = [id_in(name), label.value if label else ""]
        reply = await self._link.call(lambda: self._label(keys=names, args=args))
        match reply[0]:
            case b"OK":
                return State.FINISHED
            case b"STATE":
                return State(reply[1].decode())
        return None

    async def delete(self, name: str) -> Binding | None:
        """Forgets a trajectory; its router finds out at its next append. Returns who has its session; None: nobody."""
        its = keys.of_session(name)
        listed = [("ZREM", index, id_in(name)) for index in (its.listing, its.labelled)]
        forget = ("HMGET", its.trajectory, *FIELDS), ("DEL", its.trajectory, its.chunks), *listed
        held, *counts = await self._link.at_once(its.trajectory, *forget)
        return binding_of(held) if any(counts) else None

    async def renew(self, router_id: str, lease_s: float) -> None:
        """Says that a router lives, for `lease_s` from now. Raises RstitchError (UNAVAILABLE) after one try."""
        await leases.renew(self._link, router_id, lease_s)

    async def resign(self, router_id: str) -> None:
        """Ends a router's lease, so that others need not wait for it. Tries once: it also runs out by itself."""
        await leases.resign(self._link, router_id)


def _outcomes_of(replies: Any, num: int) -> Sequence[Outcome]:
    if replies == b"OK":  # the common case, told in one word: parsing a reply for each costs time
        return [[b"OK"]] * num
    return [script_error(reply[1].decode()) if reply[0] == b"ERROR" else reply for reply in replies]


def _append_arguments(
    name: str,
    owned: Owned,
    length: int,
    chunks: Sequence[Chunk],
    usage: Usage,
    state: State,
    finish: FinishReason | None,
) -> list[Any]:
    """What append.lua takes of one session."""
    entries = encode_chunks(chunks)
    return [
        id_in(name),
        owned.owner,
        owned.epoch,
        length,
        length + sum([len(chunk.tokens) for chunk in chunks]),
        state.value,
        finish.value if finish else "",
        encode_usage(usage),
        len(entries),
        *entries,
    ]


def _script(*names: str) -> str:
    """Joins files to one script, those first that define what the last one calls: Redis has no modules."""
    folder = resources.files("router_svc.trajectory")
    return "".join((folder / name).read_text("utf-8") for name in names)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
