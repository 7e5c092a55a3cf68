"""What a key has in this router: what it was admitted to, what is being written for it, and what it owes.

It sends nothing: `Quotas` does, and says here what has arrived.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError
from rstitch.service.caller import Caller, Limits

_NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Bill:
    """What Redis is told of an account at once; a number and its tokens stay together until they have arrived."""

    number: int
    tokens: int
    llm_tokens: int
    returned: tuple[str, ...] = ()  # requests that do not count after all
    freed: tuple[str, ...] = ()  # slots
    renewed: tuple[str, ...] = ()  # slots


class Account:
    """What one key has running in this router, and what Redis has not been told of it."""

    def __init__(self, who: Caller) -> None:
        self.who = who
        self.lock = asyncio.Lock()  # one bill at a time
        self._here: set[Admission] = set()
        self._returned: list[str] = []
        self._freed: list[str] = []
        self._tokens = self._llm_tokens = 0  # on no bill yet
        self._unpaid: Bill | None = None  # may have arrived or not

    @property
    def is_empty(self) -> bool:
        """Whether nothing is here that Redis might have to be told of, now or later."""
        return not (self._here or self._returned or self._freed or self._tokens or self._unpaid)

    def enter(self, admission: Admission) -> None:
        """Its slot is renewed from now on, and what it writes is charged."""
        self._here.add(admission)

    def leave(self, admission: Admission, *, returned: str = "", freed: str = "") -> None:
        """It is over; a request and a slot are given back, if there are any."""
        self._charge(admission)
        self._here.discard(admission)
        self._returned += [returned] if returned else []
        self._freed += [freed] if freed else []

    def bill(self, numbers: Iterator[int], *, renews: bool) -> Bill | None:
        """What to tell Redis now; None: nothing. A charge that may have arrived comes again as it was, and alone.

        It `renews` the slots of what is here, and charges for that, too; otherwise it is of what is over.
        """
        here = self._here if renews else ()
        renewed = tuple(slot for each in here if (slot := each.slot))
        if self._unpaid is None:
            for admission in here:
                self._charge(admission)
            if not (self._tokens or self._returned or self._freed or renewed):
                return None
            self._unpaid = Bill(next(numbers), self._tokens, self._llm_tokens)
            self._tokens = self._llm_tokens = 0
        charge = self._unpaid
        returned, freed = tuple(self._returned), tuple(self._freed)
        return Bill(charge.number, charge.tokens, charge.llm_tokens, returned, freed, renewed)

    def paid(self, bill: Bill) -> None:
        """Notes that Redis has a bill: what it charged and gave back is owed no longer."""
        self._unpaid = None
        del self._returned[: len(bill.returned)]
        del self._freed[: len(bill.freed)]

    def _charge(self, admission: Admission) -> None:
        tokens, llm_tokens = admission.take_written()
        self._tokens += tokens
        self._llm_tokens += llm_tokens


class Counter(Protocol):
    """Where limits are counted: `Quotas`."""

    async def admit(self, who: Caller, limits: Limits, request_id: str, session_id: str) -> RstitchError | None: ...

    def account(self, who: Caller) -> Account: ...

    async def settle(self, account: Account, *, renews: bool = False) -> None: ...


class Admission:
    """One request of a caller: admitted, then an answer that is written, then over.

    Attributes:
        slot: what it holds among the key's answers at once; "" if it holds none.
    """

    def __init__(self, quotas: Counter, who: Caller, session_id: str) -> None:
        self.slot = ""
        self._quotas = quotas
        self._who = who
        self._is_limited = who.limits != _NO_LIMITS
        self._session_id = session_id
        self._id = uuid.uuid4().hex
        self._counted = ""  # its id if it counts as a request
        self._has_entered = False
        self._usage: Usage | None = None  # of the answer that is being written
        self._charged = (0, 0)

    async def enter(self, *, resumes: bool = False) -> None:
        """Asks to be admitted, before any work; whoever `resumes` an answer needs a slot only: it was admitted once.

        Raises RstitchError: RESOURCE_EXHAUSTED (QUOTA_EXCEEDED), or UNAVAILABLE while Redis is away.
        """
        if not self._is_limited or self._has_entered:
            return
        self._has_entered = True
        limits = self._who.limits
        if resumes:
            limits = Limits(max_running=limits.max_running)
        if limits != _NO_LIMITS:
            refusal = await self._ask(limits)
            if refusal is not None:
                self._has_entered, self.slot, self._counted = False, "", ""
                raise refusal
        self._quotas.account(self._who).enter(self)

    async def _ask(self, limits: Limits) -> RstitchError | None:
        # Noted before it is asked for: the reply may be lost, and then both are given back.
        self.slot = f"{self._id}{self._session_id}" if limits.max_running or limits.max_trajectories else ""
        self._counted = self._id if limits.requests_per_minute else ""
        return await self._quotas.admit(self._who, limits, self._id, self._session_id)

    def begin(self, usage: Usage, num_prompt_tokens: int) -> None:
        """Its answer is written from now on: charged are so many tokens of a prompt, and what `usage` grows by."""
        self._usage = usage
        self._charged = (_num_written(usage) - num_prompt_tokens, usage.num_llm_tokens)

    def end(self) -> asyncio.Task[None] | None:
        """Its answer is over, from now on. Redis knows that, or cannot be told at once, when the task is done, if any.

        What it could not be told comes with the next renewal.
        """
        account = self._leave("")
        return asyncio.create_task(self._quotas.settle(account), name="settle") if account is not None else None

    async def give_back(self, *, request: bool) -> None:
        """Gives its slot back, unless its answer has begun; with `request` it does not count as one, either."""
        if self._usage is None:
            account = self._leave(self._counted if request else "")
            if account is not None:
                await self._quotas.settle(account)

    def _leave(self, returned: str) -> Account | None:
        """Its account, which owes what is new of it; None if it has taken nothing."""
        if not self._has_entered:
            return None
        account = self._quotas.account(self._who)
        account.leave(self, returned=returned, freed=self.slot)
        self._has_entered, self.slot, self._usage = False, "", None
        return account

    def take_written(self) -> tuple[int, int]:
        """How many tokens were written since the last call, and how many of them by the LLM."""
        if self._usage is None:
            return 0, 0
        now, before = (_num_written(self._usage), self._usage.num_llm_tokens), self._charged
        self._charged = now
        return now[0] - before[0], now[1] - before[1]


def _num_written(usage: Usage) -> int:
    return usage.num_slm_tokens + usage.num_llm_tokens
