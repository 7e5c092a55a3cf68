"""The registry of a fleet, in Redis: workers announce themselves there, and routers read who is there.

A worker that says nothing for `TTL_S` is gone, by Redis' own clock. It places no session and asks no worker.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import grpc
import structlog

from fleet.announcement import Announcement
from rstitch.errors import RstitchError
from storage.redis_link import RedisLink

_log = structlog.get_logger(__name__)
# A worker announces itself so often, and is gone so long after the last time: two may be late or lost.
BEAT_S = 1.0
TTL_S = 3.0


class Registry:
    """The workers of one fleet: those that share a Redis and a name. Its calls raise RstitchError (UNAVAILABLE)."""

    def __init__(self, link: RedisLink, fleet: str, ttl_s: float = TTL_S) -> None:
        self.fleet = fleet
        self._link = link
        self._ttl_ms = int(ttl_s * 1000)
        text = resources.files("fleet").joinpath("registry.lua").read_text("utf-8")
        self._script: Any = link.redis.register_script(text)

    async def beat(self, worker: Announcement) -> None:
        """Says that a worker lives, and how it is.

        Raises RstitchError (FAILED_PRECONDITION): MIXED_FLEET where living ones have another model, WORKER_ID_TAKEN
        where one elsewhere has its id.
        """
        args = ["beat", self._ttl_ms, worker.id, worker.address, worker.fingerprint, worker.to_json()]
        reply = await self._call(worker.role, args)
        match reply[0]:
            case b"MIXED":
                raise mixed_fleet(worker.role, self.fleet, worker.fingerprint, reply[1].decode())
            case b"TAKEN":
                what = f"a living worker at {reply[1].decode()} has the id {worker.id}."
                remedy = "Give each worker an id of its own: --worker-id."
                code = grpc.StatusCode.FAILED_PRECONDITION
                raise RstitchError(code, "WORKER_ID_TAKEN", what, field="worker_id", remedy=remedy)

    async def withdraw(self, worker: Announcement) -> None:
        """Says that a worker is gone, so that nobody waits for it."""
        await self._call(worker.role, ["withdraw", self._ttl_ms, worker.id, worker.address])

    async def read(self, role: str) -> list[Announcement]:
        """The living workers of a role, sorted by id."""
        found = []
        for text in await self._call(role, ["read", self._ttl_ms]):
            try:
                found.append(Announcement.from_json(text))
            except ValueError as error:
                _log.warning("announcement not understood", error=str(error))
        return sorted(found, key=lambda worker: worker.id)

    async def _call(self, role: str, args: list[Any]) -> list[bytes]:
        keys = [workers_key(self.fleet, role), fingerprint_key(self.fleet, role)]
        reply: list[bytes] = await self._link.call(lambda: self._script(keys=keys, args=args), patience_s=0)
        return reply


def workers_key(fleet: str, role: str) -> str:
    """Hash of a fleet's workers of a role by id. The braces keep it in one slot of a cluster with the key below."""
    return f"rstitch:{{fleet:{fleet}}}:{role}"


def fingerprint_key(fleet: str, role: str) -> str:
    """String: the fingerprint of these workers, while one of them lives."""
    return f"rstitch:{{fleet:{fleet}}}:{role}:fingerprint"


def mixed_fleet(role: str, fleet: str, own: str, others: str) -> RstitchError:
    """FAILED_PRECONDITION: a worker is not as others of its role, and tokens would depend on who writes them.

    Told are both fingerprints, WEIGHTS/TOKENIZER each.
    """
    what = f"this {role.upper()} worker has the fingerprint {own}, those of the fleet {fleet} have {others}."
    remedy = "Serve the same weights, dtype and tokenizer everywhere; or stop the others, or name another --fleet."
    return RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "MIXED_FLEET", what, field="model", remedy=remedy)
