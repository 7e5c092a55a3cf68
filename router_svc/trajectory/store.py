"""Trajectories in Redis: the truth. Every change goes through one of two Lua scripts, fenced by epoch and length.

It knows neither models nor wire.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import grpc
import structlog
from redis.exceptions import RedisError

from router_svc.trajectory import keys
from router_svc.trajectory.answer_record import decode_chunk, decode_header, encode_chunks, encode_usage
from router_svc.trajectory.group_commit import GroupCommit
from router_svc.trajectory.redis_link import RedisLink, refusal
from router_svc.trajectory.types import Chunk, FinishReason, Header, State, Trajectory
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
Cursor = tuple[int, str]
# Appends of one call: after an outage each may have thousands of arguments, of which Redis 6.2 takes 2**20, and while
# the call runs Redis serves nobody else.
_MAX_APPENDS = 64


class Fenced(RstitchError):
    """Another router owns the trajectory now, or it was deleted: nothing more may be written."""


class Behind(Exception):
    """The store lost the end of a trajectory, as a Redis that crashed may.

    Attributes:
        length: what it has left.
    """

    def __init__(self, length: int) -> None:
        super().__init__(f"the store has {length} tokens")
        self.length = length


@dataclass(frozen=True, slots=True)
class Owned:
    """The claim went through; epoch and owner are the fence of every append."""

    epoch: int
    owner: str


@dataclass(frozen=True, slots=True)
class OwnedElsewhere:
    """A router that lives is writing it; its lease runs out in `lease_ms` unless renewed."""

    lease_ms: int


class TrajectoryStore:
    """Reads and writes trajectories.

    Args:
        url: of Redis.
        ttl_s: a trajectory is forgotten so long after its last change.
        patience_s: how long a call is retried while Redis cannot be reached.
    """

    def __init__(self, url: str, *, ttl_s: float, patience_s: float) -> None:
        self._ttl_ms = int(ttl_s * 1000)
        self._link = RedisLink(url, patience_s)
        self._append = self._link.script(_script("append.lua"))
        self._commit = GroupCommit(self._append_all, _MAX_APPENDS)
        self._claim = self._link.redis.register_script(_script("claim.lua"))

    async def close(self) -> None:
        """Closes the connections."""
        await self._append.close()
        await self._link.close()

    async def header(self, session_id: str) -> Header | None:
        """Without tokens; None if unknown or forgotten."""
        fields: dict[bytes, bytes] = await self._link.command("HGETALL", keys.trajectory(session_id))
        return decode_header(session_id, fields) if fields else None

    async def trajectory(self, session_id: str) -> Trajectory | None:
        """Whole, read at one moment; None if unknown or forgotten. Raises RstitchError (DATA_LOSS) if not whole."""

        async def read() -> tuple[dict[bytes, bytes], list[tuple[bytes, dict[bytes, bytes]]]]:
            async with self._link.redis.pipeline(transaction=True) as pipe:
                pipe.hgetall(keys.trajectory(session_id))
                pipe.xrange(keys.chunks(session_id))
                header, entries = await pipe.execute()
                return header, entries

        fields, entries = await self._link.call(read)
        if not fields:
            return None
        chunks = tuple(decode_chunk(entry) for _, entry in entries)
        made = Trajectory(decode_header(session_id, fields), chunks)
        num = sum(len(chunk.tokens) for chunk in chunks)
        if num != made.header.length:
            raise RstitchError(
                grpc.StatusCode.DATA_LOSS,
                "TRAJECTORY_LOST",
                f"Redis has {num} of the {made.header.length} tokens of session {session_id}.",
                remedy="Ask again under a new session; Redis must not evict keys (maxmemory-policy noeviction).",
                metadata={"session_id": session_id},
            )
        return made

    async def claim(
        self,
        before: Header | None,
        session_id: str,
        router_id: str,
        settings: str,
        usage: Usage,
        chunks: Sequence[Chunk],
    ) -> Owned | OwnedElsewhere | None:
        """Makes `router_id` the owner and appends `chunks` (a prompt) in one step; the state is RUNNING then.

        Args:
            before: the header as read; None: the session must not exist.
            settings: of the answer to come or to go on with.
            usage: of that answer so far.
        Returns: None if the trajectory is not as in `before` any more: read it again.
        """
        length = before.length if before else 0
        reply = await self._link.call(
            lambda: self._claim(
                keys=[*self._keys(session_id), keys.router(router_id)],
                args=[
                    before.epoch if before else 0,
                    length,
                    length + sum(len(chunk.tokens) for chunk in chunks),
                    settings,
                    encode_usage(usage),
                    router_id,
                    _now_ms(),
                    self._ttl_ms,
                    session_id,
                    keys.ROUTER_PREFIX,
                    *encode_chunks(chunks),
                ],
            )
        )
        match reply[0]:
            case b"OK":
                return Owned(int(reply[1]), router_id)
            case b"OWNED":
                return OwnedElsewhere(int(reply[1]))
            case _:
                return None

    async def append(
        self,
        session_id: str,
        owned: Owned,
        length: int,
        chunks: Sequence[Chunk],
        usage: Usage,
        state: State = State.RUNNING,
        finish: FinishReason | None = None,
        patience_s: float | None = None,
    ) -> None:
        """Appends `chunks` at `length`, sets state and usage. May come twice: the second does nothing.

        Appends of other sessions that come meanwhile share a call.

        Raises: Fenced (ABORTED, TAKEN_OVER or DELETED); Behind; RstitchError (UNAVAILABLE) after the patience.
        """
        entries = encode_chunks(chunks)
        arguments = [
            session_id,
            owned.owner,
            owned.epoch,
            length,
            length + sum(len(chunk.tokens) for chunk in chunks),
            state.value,
            finish.value if finish else "",
            encode_usage(usage),
            len(entries),
            *entries,
        ]
        reply = await self._link.call(lambda: self._commit((session_id, arguments)), patience_s)
        match reply[0]:
            case b"OK":
                return
            case b"LOST":
                raise Fenced(
                    grpc.StatusCode.ABORTED,
                    "TAKEN_OVER",
                    f"another router took session {session_id} over.",
                    remedy="Re-attach with resume_from.",
                    metadata={"session_id": session_id},
                )
            case b"GONE":
                raise Fenced(
                    grpc.StatusCode.ABORTED,
                    "DELETED",
                    f"session {session_id} was deleted while it was being written.",
                    remedy="Ask again under a new session.",
                    metadata={"session_id": session_id},
                )
            case _:
                raise Behind(int(reply[1]))

    async def _append_all(self, appends: list[tuple[str, list[Any]]]) -> list[list[bytes] | RedisError]:
        """The replies to the appends of several sessions, in one call."""
        names, arguments = [keys.INDEX], [_now_ms(), self._ttl_ms]
        for session_id, of_session in appends:
            names += (keys.trajectory(session_id), keys.chunks(session_id))
            arguments += of_session
        replies = await self._append(keys=names, args=arguments)
        if replies == b"OK":
            return [[b"OK"]] * len(appends)
        return [refusal(reply[1].decode()) if reply[0] == b"ERROR" else reply for reply in replies]

    async def delete(self, session_id: str) -> bool:
        """Forgets a trajectory; a router that writes it finds out at its next append. False if there was none."""

        async def drop() -> list[int]:
            async with self._link.redis.pipeline(transaction=True) as pipe:
                pipe.delete(keys.trajectory(session_id))
                pipe.delete(keys.chunks(session_id))
                pipe.zrem(keys.INDEX, session_id)
                counts: list[int] = await pipe.execute()
                return counts

        return any(await self._link.call(drop))

    async def page(self, num: int, before: Cursor | None) -> tuple[list[Header], Cursor | None]:
        """Headers, those that changed last first.

        Args:
            num: at most so many, at least 1.
            before: where the page before ended, as returned.
        Returns: the headers, and where this page ended; None on the last.
        """
        found: list[Header] = []
        while True:
            entries = await self._entries_after(before, num - len(found) + 1)
            for entry in entries:
                if len(found) == num:
                    return found, before
                before = entry
                header = await self.header(entry[1])
                if header is not None:  # else forgotten, and the index not tidied yet
                    found.append(header)
            if not entries:
                return found, None

    async def _entries_after(self, before: Cursor | None, num: int) -> list[Cursor]:
        """Some of the index's entries that follow `before`, in order; none at the end."""
        top = before[0] if before else "+inf"
        skip = 0
        while True:
            args = (keys.INDEX, top, "-inf", "WITHSCORES", "LIMIT", skip, num)
            flat: list[bytes] = await self._link.command("ZREVRANGEBYSCORE", *args)
            entries = [(int(score), name.decode()) for name, score in zip(flat[::2], flat[1::2], strict=True)]
            # Of equal scores the greater id comes first.
            fresh = [entry for entry in entries if before is None or entry < before]
            if fresh or not entries:
                return fresh
            skip += len(entries)

    async def renew(self, router_id: str, lease_s: float) -> None:
        """Shows that a router lives. One try. Raises RstitchError (UNAVAILABLE)."""
        redis = self._link.redis
        await self._link.call(lambda: redis.set(keys.router(router_id), 1, px=int(lease_s * 1000)), patience_s=0)

    async def resign(self, router_id: str) -> None:
        """Gives the sessions of a router that ends free at once. One try; the lease runs out by itself."""
        try:
            await self._link.call(lambda: self._link.redis.delete(keys.router(router_id)), patience_s=0)
        except RstitchError as error:
            _log.warning("lease not given back", error=str(error))

    def _keys(self, session_id: str) -> list[str]:
        return [keys.trajectory(session_id), keys.chunks(session_id), keys.INDEX]


def _script(name: str) -> str:
    folder = resources.files("router_svc.trajectory")
    return (folder / "entries.lua").read_text() + (folder / name).read_text()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
