"""What each key may take, counted in Redis for all routers at once. It knows neither wire nor answers.

    admit.lua    one round trip before any work: all of a key's limits at one moment (two more where trajectories are
                 limited, which lie elsewhere in a cluster and are counted first)
    settle.lua   three times in a router's lease, and when an answer ends: charges what was written, renews the slots
                 of the answers that are being written, frees those of others

A request counts from when it is admitted; a slot is held from then on until the answer has ended, or until the lease is
over that a router which died no longer renews. Tokens are charged as they are written, so that an answer may take more
than was left: it goes on, and the next request waits until the window has room. A key without limits costs nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources

import structlog

from router_svc.access.account import Account, Admission
from router_svc.access.kept import Kept, KeptTrajectories
from router_svc.access.refusals import quota_exceeded
from router_svc.trajectory import keys
from rstitch.errors import Refused, RstitchError
from rstitch.service import semconv
from rstitch.service.caller import Caller, Limits, caller
from rstitch.service.metrics import NO_METRICS, Metrics
from storage.redis_link import RedisLink

_log = structlog.get_logger(__name__)
_WINDOW_MS = 60_000
# For so long Redis knows the number of a charge, so that one which comes again is not charged twice.
_KNOWN_MS = 3_600_000
# So often trajectories are counted again while slots come and go; then what was counted last holds.
_MAX_COUNTS = 20


@dataclass(frozen=True, slots=True)
class Use:
    """What a key takes at the moment, in the fields of its limits; of a key without any nothing is counted."""

    requests_per_minute: int
    tokens_per_minute: int
    llm_tokens_per_minute: int
    max_running: int
    max_trajectories: int  # of its tenant


class Quotas:
    """Admits requests of keys within their limits, and charges the keys for what comes of them.

    Args:
        lease_s: a slot that is not renewed for so long is free; `renew` is to be called three times in it.
        ttl_s: in which a trajectory is forgotten.

    Attributes:
        now_ms: the Unix time for all routers; None: Redis' own, which they have in common.
    """

    def __init__(
        self,
        link: RedisLink,
        router_id: str,
        *,
        lease_s: float,
        ttl_s: float,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self.now_ms: Callable[[], int] | None = None
        self._link = link
        self._router_id = router_id
        self._lease_ms = int(lease_s * 1000)
        self._kept = KeptTrajectories(link, int(ttl_s * 1000), self._now)
        self._admit, self._settle, self._use = (
            link.redis.register_script(_text(name)) for name in ("admit.lua", "settle.lua", "use.lua")
        )
        self._accounts: dict[str, Account] = {}  # by key: of those that have something here, or owe something
        self._numbers = itertools.count(1)
        what = "Requests that the quota of a key refused."
        self._refusals = metrics.meter.create_counter(semconv.METRIC_QUOTA_REFUSALS, "{request}", what)
        self._away = False

    async def close(self) -> None:
        await self._link.close()

    @asynccontextmanager
    async def admission(self, session_id: str) -> AsyncIterator[Admission]:
        """For what the caller asks for in a session; what was admitted and did not begin is given back at the end.

        Without a session ("") it leaves no trajectory.
        """
        admission = Admission(self, caller(), session_id)
        try:
            yield admission
        except BaseException as error:
            # What a question took that is itself at fault it has taken.
            await admission.give_back(request=isinstance(error, RstitchError) and not isinstance(error, Refused))
            raise
        await admission.give_back(request=False)

    async def admit(self, who: Caller, limits: Limits, request_id: str, session_id: str) -> RstitchError | None:
        """Counts a request within its key's limits; returns the refusal if they leave no room for it.

        Raises RstitchError (UNAVAILABLE) while Redis is away: it may have been counted then.
        """
        args: list[int | str] = [
            *(self._now(), _WINDOW_MS, self._lease_ms, request_id, session_id),
            *(limits.requests_per_minute, limits.tokens_per_minute, limits.llm_tokens_per_minute),
            *(limits.max_running, limits.max_trajectories),
        ]
        names = _counters(who)
        # A key without that limit costs one round trip.
        asks_for_room = bool(limits.max_trajectories and session_id)
        for num_left in range(_MAX_COUNTS, -1, -1):
            kept = await self._kept.count(who, session_id, limits.max_trajectories) if asks_for_room else Kept()
            counted = kept.as_arguments(is_last=not num_left)
            reply = await self._link.call(partial(self._admit, keys=names, args=[*args, *counted]))
            if reply[0] == b"OK":
                return None
            if reply[0] != b"AGAIN":
                break
        quota = reply[0].decode()
        self._refusals.add(1, {semconv.RSTITCH_QUOTA: quota})
        return quota_exceeded(quota, *map(int, reply[1:]))

    def account(self, who: Caller) -> Account:
        """What a key has in this router; it is kept for as long as there is something in it."""
        found = self._accounts.get(who.key_id)
        if found is None:
            found = self._accounts[who.key_id] = Account(who)
        return found

    async def renew(self) -> None:
        """Renews the slots of the answers written here and charges for them; what fails comes with the next call."""
        await asyncio.gather(*(self.settle(account, renews=True) for account in list(self._accounts.values())))

    async def settle(self, account: Account, *, renews: bool = False) -> None:
        """Tells Redis what is new of an account, in one try: nothing that is written waits for it to succeed."""
        async with account.lock:
            bill = account.bill(self._numbers, renews=renews)
            if bill is None:
                if account.is_empty and self._accounts.get(account.who.key_id) is account:
                    del self._accounts[account.who.key_id]
                return
            args = [self._now(), _WINDOW_MS, self._lease_ms, bill.number, bill.tokens, bill.llm_tokens, _KNOWN_MS]
            args += [len(bill.returned), len(bill.freed), *bill.returned, *bill.freed, *bill.renewed]
            names = [*_counters(account.who), keys.quota(account.who.key_id, f"charged:{self._router_id}")]
            try:
                await self._link.call(lambda: self._settle(keys=names, args=args), patience_s=0)
            except RstitchError as error:
                if not self._away:  # one line in the log for one outage
                    _log.warning("keys not charged yet", error=str(error))
                self._away = True
            else:
                self._away = False
                account.paid(bill)

    async def use(self, who: Caller) -> Use:
        """What a key takes at the moment. Raises RstitchError (UNAVAILABLE)."""
        names, args = _counters(who), (self._now(), _WINDOW_MS)
        counted: list[int] = await self._link.call(lambda: self._use(keys=names, args=args))
        return Use(*(*counted, await self._kept.number(who.tenant)))

    def _now(self) -> int | str:
        return self.now_ms() if self.now_ms is not None else ""


def _counters(who: Caller) -> list[str]:
    return [keys.quota(who.key_id, what) for what in ("requests", "running", "tokens", "changes")]


def _text(name: str) -> str:
    folder = resources.files("router_svc.access")
    return (folder / "window.lua").read_text("utf-8") + (folder / name).read_text("utf-8")
