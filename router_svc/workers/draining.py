"""Lets a worker of the fleet run empty, and tells how far it is. It moves no session: answers do that themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import grpc
import structlog

from router_svc.workers.fleet import Fleet
from router_svc.workers.member import Member
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
_LOOK_S = 0.2
# By then all routers know it, from the worker's announcement or by asking it: none sends anybody new.
_KNOWN_S = 2.0
# Of an id that nobody has, so much is said back: more would not fit into what an error may carry.
_LONGEST_ID = 256


@dataclass(frozen=True, slots=True)
class Left:
    """What is going on at a worker.

    Attributes:
        is_empty: nothing is, and no router sends anything more there, unless nobody else of its role takes sessions.
    """

    num_running: int
    num_streams: int
    is_empty: bool


async def drain(fleet: Fleet, worker_id: str, *, undo: bool) -> AsyncGenerator[Left, None]:
    """Drains a worker, and yields what is left there until it is empty; with `undo` takes that back, and yields once.

    Raises RstitchError: NOT_FOUND (WORKER_UNKNOWN); UNAVAILABLE if the worker cannot be asked; ABORTED (DRAIN_UNDONE)
    if somebody takes it back meanwhile; FAILED_PRECONDITION if it is about to end, and is to take sessions again.
    """
    member = fleet.find(worker_id)
    if member is None:
        raise _unknown(worker_id)
    _log.info("worker is taken back" if undo else "worker is drained", worker=member.id, address=member.address)
    since = time.monotonic()
    while True:
        num_running, num_streams = await _ask(member, undo=undo)
        member.mark_draining(not undo, time.monotonic())
        is_known = time.monotonic() - since >= _KNOWN_S
        is_empty = not undo and is_known and num_running == num_streams == 0
        yield Left(num_running, num_streams, is_empty)
        if undo or is_empty:
            return
        await asyncio.sleep(_LOOK_S)
        await _check_drains(member)


async def _check_drains(member: Member) -> None:
    """Raises RstitchError if the worker says that it does not drain: to ask how far it is would drain it again."""
    try:
        info = await member.client.info()
    except RstitchError as error:
        raise _cannot_be_asked(member, error) from error
    if not info.draining:
        member.mark_draining(False, time.monotonic())
        what = f"the worker {member.id} does not drain any more: somebody took it back, or it was started again."
        remedy = "Drain it anew if that was not meant."
        raise RstitchError(grpc.StatusCode.ABORTED, "DRAIN_UNDONE", what, remedy=remedy)


async def _ask(member: Member, *, undo: bool) -> tuple[int, int]:
    try:
        return await member.client.drain(undo=undo)
    except RstitchError as error:
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            what, remedy = f"the worker {member.id} is of a release that does not drain.", "Stop it with SIGTERM."
            raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "WORKER_TOO_OLD", what, remedy=remedy) from error
        if error.reason == "WORKER_ENDING":
            raise
        raise _cannot_be_asked(member, error) from error


def _cannot_be_asked(member: Member, error: RstitchError) -> RstitchError:
    what = f"the worker {member.id} at {member.address} cannot be asked: {error.message}."
    remedy = "If it was stopped, nothing is left there."
    return RstitchError(grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE", what, remedy=remedy)


def _unknown(worker_id: str) -> RstitchError:
    """Without those that there are: one that was given no id has its address for it."""
    what = f"there is no worker {worker_id[:_LONGEST_ID]!r}."
    remedy = "Name a worker's id or address, as `rstitch status` shows them."
    return RstitchError(grpc.StatusCode.NOT_FOUND, "WORKER_UNKNOWN", what, field="worker_id", remedy=remedy)
