"""The heads that the store keeps, and behind them those of folder and hub: what a name of the policy `learned` finds.

A plain NAME stands for the version that the store has in service, as somebody put it there on purpose; only without one
for the folder's. NAME@VERSION is that very content, wherever it lies.

An answer costs one small read of the store. What is kept under a version never changes, so that a head is read and
parsed once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, fields

import grpc
import structlog

from router_svc.policies.heads import FIELD, Heads, HeadState, NamedHead, Reader, check_fit, split_name
from router_svc.trajectory.head_store import HeadStore, KeptHead
from rstitch.errors import NotFound, RstitchError, invalid
from rstitch.service.head import Head, HeadFacts, HeadFileError

_log = structlog.get_logger(__name__)
_MAX_NAME, _MAX_DESCRIPTION = 64, 4096
_MAX_PARSED = 8  # heads of up to 15 MiB each
_MAX_NAMES = 20  # that an error names
_STATUS_S = 1.0  # that GetStatus waits for Redis


class StoredHeads:
    """Finds heads by name, and puts, activates and forgets those of the store. Methods raise RstitchError.

    `slm` returns None while its worker has said nothing; whether a head fits is then seen when it is asked for.
    """

    def __init__(self, store: HeadStore, others: Heads, slm: Callable[[], Reader | None]) -> None:
        self._store = store
        self._others = others
        self._slm = slm
        self._parsed: OrderedDict[str, Head] = OrderedDict()  # by version, the one used last at the end
        self._parsing = asyncio.Lock()  # many answers may ask for a new head at once: it is read for the first

    async def close(self) -> None:
        await self._store.close()

    async def get(self, name: str) -> NamedHead:
        """The head of NAME, NAME@VERSION or hub id. Raises RstitchError, naming the field, also if it does not fit."""
        plain, version = split_name(name)
        if "/" in plain:
            return await asyncio.to_thread(self._others.get, name)
        found = (await self._store.find(plain, version or "")).version
        head = await self._head(plain, found) if found else None
        if head is not None:
            check_fit(name, head.facts, self._slm())
            return NamedHead(plain, head)
        try:
            return await asyncio.to_thread(self._others.get, name)
        except NotFound as error:
            error.remedy = f"{error.remedy} {await self._told(plain)}"
            raise

    async def put(self, name: str, data: bytes, *, active: bool, ttl_s: int, description: str) -> str:
        """Keeps a head, and says under which NAME@VERSION. Raises RstitchError, naming the field, if none could ask it.

        Once more the same head keeps one head, with the later description and `ttl_s`.
        """
        _plain(name)
        if len(description) > _MAX_DESCRIPTION:
            raise invalid("description", "it is too long.", f"Use at most {_MAX_DESCRIPTION} characters.")
        try:
            head = await asyncio.to_thread(Head.from_bytes, data)
        except HeadFileError as error:
            remedy = "Send the content of a head.safetensors that training made."
            raise invalid("data", f"it cannot be used: {error}.", remedy, "HEAD_UNREADABLE") from error
        check_fit(name, head.facts, self._slm(), field="data")
        facts = json.dumps(asdict(head.facts))
        await self._store.put(name, head.version, data, facts, description, ttl_s=ttl_s, active=active)
        full_name = f"{name}@{head.version}"
        _log.info("head kept", head=full_name, active=active, ttl_s=ttl_s)
        return full_name

    async def activate(self, name: str, version: str) -> str:
        """Lets NAME stand for a version, "" for the one before, and returns NAME@VERSION.

        Raises RstitchError, naming the field, also for one that no answer could ask, put by the router of another pair.
        """
        _plain(name)
        if not version:
            found = await self._store.find(name)
            if not found.before:
                what = f"no version of the head {name} was in service before"
                why = f"{what} {name}@{found.active}." if found.active else f"{what}."
                told = await self._told(name)
                raise _error(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_NOT_REPLACED", why, "version", told)
            version = found.before
        head = await self._head(name, version, "version")
        if head is not None:
            check_fit(f"{name}@{version}", head.facts, self._slm(), field="version")
        if head is None or not await self._store.activate(name, version):
            what = f"the store has no head {name}@{version[:_MAX_NAME]}."
            raise _error(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", what, "version", await self._told(name))
        _log.info("head in service", head=f"{name}@{version}")
        return f"{name}@{version}"

    async def delete(self, name: str) -> None:
        """Forgets NAME with all its versions, or NAME@VERSION, which must not be in service.

        Answers that run go on with what they have; one that another router has to go on with is refused.
        """
        plain, version = _split(name)
        reply = await self._store.delete(plain, version or "")
        if reply == "ACTIVE":
            what = f"{name} is in service."
            remedy = f"Activate another version first, or delete {plain}, which forgets all of them."
            raise _error(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_ACTIVE", what, "name", remedy)
        if reply == "UNKNOWN":
            what = f"the store has no head {name}."
            raise _error(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", what, "name", await self._told(plain))
        _log.info("head forgotten", head=name)

    async def states(self) -> list[HeadState]:
        """All heads by name, those of the store before the folder's; without the store's while Redis is away."""
        try:
            async with asyncio.timeout(_STATUS_S):
                kept = await self._store.all(patience_s=0.0)
        except (RstitchError, TimeoutError):
            kept = []  # what is wrong with Redis is said elsewhere
        slm = self._slm()
        stored = [_state(each, slm) for each in kept]
        in_service = {state.name for state in stored if state.active}
        others = await asyncio.to_thread(self._others.states, in_service)
        return sorted([*stored, *others], key=lambda state: state.name)

    async def _head(self, name: str, version: str, field: str = FIELD) -> Head | None:
        """A version that was found; None if it was forgotten since."""
        if version not in self._parsed:
            async with self._parsing:
                if version not in self._parsed:
                    data = await self._store.read(name, version)
                    if data is None:
                        return None
                    self._parsed[version] = await asyncio.to_thread(_read, f"{name}@{version}", data, field)
                    if len(self._parsed) > _MAX_PARSED:
                        self._parsed.popitem(last=False)
        self._parsed.move_to_end(version)
        return self._parsed[version]

    async def _told(self, name: str) -> str:
        """What the store has: the versions of a name, or else the names."""
        kept = await self._store.all()
        versions = [f"{each.name}@{each.version}" for each in kept if each.name == name]
        names = versions or sorted({each.name for each in kept})
        if not names:
            return "The store has none; `rstitch heads put` keeps one there."
        more = f" and {len(names) - _MAX_NAMES} more" * (len(names) > _MAX_NAMES)
        return f"The store has {', '.join(names[:_MAX_NAMES])}{more}."


def _read(full_name: str, data: bytes, field: str) -> Head:
    try:
        return Head.from_bytes(data)
    except HeadFileError as error:
        what = f"the head {full_name} cannot be used: {error}."
        remedy = "Update this router to the version of the one that it was put by, or name another head."
        raise _error(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_UNREADABLE", what, field, remedy) from error


def _state(kept: KeptHead, slm: Reader | None) -> HeadState:
    known = {field.name for field in fields(HeadFacts)}
    told = {name: value for name, value in json.loads(kept.facts).items() if name in known}  # a newer one may say more
    facts = HeadFacts(**{**told, "features": tuple(told.get("features", ()))})
    detail = facts.misfit(slm.hidden_size, slm.fingerprint) if slm is not None else ""
    return HeadState(
        kept.name,
        kept.version,
        facts.tau,
        detail,
        facts.features,
        kept.active,
        kept.description,
        stored=True,
        updated_ms=kept.put_ms,
        ttl_s=None if kept.ttl_ms is None else max(1, math.ceil(kept.ttl_ms / 1000)),
    )


def _plain(name: str) -> str:
    """The name of a head of the store, without a version. Raises RstitchError, naming the field."""
    plain, version = _split(name)
    if version is not None:
        raise invalid("name", f"{name} names a version.", f"Send {plain}.")
    return plain


def _split(name: str) -> tuple[str, str | None]:
    with contextlib.suppress(RstitchError):  # which names a policy's field
        plain, version = split_name(name)
        if "/" not in plain and len(plain) <= _MAX_NAME:
            return plain, version
    what = f"{name[:80]!r} is no name of a head." if name else "it is empty."
    raise invalid("name", what, f"Use 1 to {_MAX_NAME} of the characters A-Z a-z 0-9 . _ -, not . or - first.")


def _error(code: grpc.StatusCode, reason: str, what: str, field: str, remedy: str) -> RstitchError:
    return RstitchError(code, reason, what, field=field, remedy=remedy)
