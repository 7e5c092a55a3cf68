"""Rollouts through a running router: as many answers at once as are wanted, on all workers that it has.

An answer that loses its router or worker goes on where it was, or is asked for again; it is the same answer, since a
head's decisions are a function of seed and position. It knows neither rewards nor learning.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self, TypeVar

from evals.asking.access import access
from evals.asking.load import closed_loop
from evals.asking.record import parts_of
from evals.latency.calls import runs_of_parts
from rstitch.backoff import Backoff
from rstitch.client.aio import AsyncClient
from rstitch.client.events import Answer, Event
from rstitch.client.policies import Budget, Learned
from rstitch.client.status import Status
from rstitch.errors import NotFound, Refused, RstitchError
from rstitch.service.head import Head
from training.head.rollouts.judging import Judge, Written, unanswered
from training.head.rollouts.types import Asked, Job, Rollout

MAX_CONSULTATIONS = 4096  # of an answer, the most that the router keeps
MAX_DESCRIPTION = 4096  # characters
_TTL_S = 24 * 3600  # of a head of training
_TOO_LONG, _UNKNOWN_SESSION = "CONTEXT_FULL", "UNKNOWN_SESSION"

T = TypeVar("T")


class ServedRollouts:
    """`Rollouts` by a router. A context manager: it holds a connection, and the judge's checker.

    Args:
        address: of the router.
        name: under which heads are kept there; they are forgotten by `forget_heads`, or a day after they were put.
        num_sessions: answers at once.
        patience_s: how long a lost service is waited for.
    """

    def __init__(
        self, address: str, judge: Judge, name: str, num_sessions: int = 64, patience_s: float = 600.0
    ) -> None:
        self._address = address
        self._judge = judge
        self._name = name
        self.num_sessions = num_sessions
        self._patience_s = patience_s
        self._loop = asyncio.Runner()
        self._heads: dict[str, Head] = {}
        self._has_answered = False

    def __enter__(self) -> Self:
        self._loop.__enter__()
        self._client = self.wait_for(self._connect())
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self.wait_for(self._close())
        finally:
            self._loop.close()

    @property
    def client(self) -> AsyncClient:
        """The connection; what is asked on it is waited for by `wait_for`."""
        return self._client

    def wait_for(self, asked: Coroutine[Any, Any, T]) -> T:
        """Waits for something that is asked of the client."""
        return self._loop.run(asked)

    async def patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Asks the client until there is an answer. Raises RstitchError that is no loss, or once patience ends."""
        return await self._patiently(lambda lost: ask())

    def status(self) -> Status:
        """Waits until the router is ready. Raises RstitchError if it is not in time."""
        return self.wait_for(self._client.wait_ready())

    def use(self, head: Head) -> str:
        """Puts a head into the router's store, beside the ones in service; returns its full name."""
        name = self.wait_for(self._patiently(lambda lost: self._put(head)))
        self._heads = {name: head}
        return name

    def put_into_service(self, name: str, head: Head, description: str) -> str:
        """Keeps a head for good, as what its name stands for; returns its full name."""
        return self.wait_for(self._client.store_head(name, head.data, description=description[:MAX_DESCRIPTION]))

    def forget_heads(self) -> None:
        """Deletes the heads that `use` put. A router that is lost forgets them later: it is no reason to fail."""
        with suppress(RstitchError):
            self.wait_for(self._client.delete_head(self._name))

    def run(
        self, jobs: Sequence[Job], policy: Asked, on_done: Callable[[Rollout], None] = lambda rollout: None
    ) -> list[Rollout]:
        """Has the answers written, in the order of the jobs; their trajectories are deleted.

        A question that is too long for the models counts as answered wrongly. Raises RstitchError if the service is
        lost for longer than the patience, refuses a question otherwise, or calls all questions too long.
        """
        return self.wait_for(self._run(jobs, policy, on_done))

    async def _connect(self) -> AsyncClient:
        await self._judge.checker.__aenter__()
        return AsyncClient(self._address, reconnect_s=self._patience_s, credentials=access())

    async def _close(self) -> None:
        # Where a signal ended a run, its answers are still being followed.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._client.close()
        await self._judge.checker.__aexit__()

    async def _run(self, jobs: Sequence[Job], policy: Asked, on_done: Callable[[Rollout], None]) -> list[Rollout]:
        done: dict[int, Rollout] = {}
        # Told once an answer is there: if there is none, it is not the questions that are too long.
        too_long: dict[int, Refused] = {}

        def seeded(job: Job) -> Job:
            if job.explore_seed is None and isinstance(policy, Learned):
                return replace(job, explore_seed=policy.explore_seed)
            return job

        async def one(numbered: tuple[int, Job]) -> None:
            index, job = numbered[0], seeded(numbered[1])
            try:
                written = await self._patiently(lambda lost: self._written(job, policy, lost))
            except Refused as error:
                if error.reason != _TOO_LONG:
                    raise
                too_long[index] = error
            else:
                self._has_answered = True
                # Outside of the session's time: the next question need not wait for the check.
                beside.create_task(finish(index, job, written))
            if self._has_answered:
                tell_too_long()

        def tell_too_long() -> None:
            for index in list(too_long):
                del too_long[index]
                done[index] = unanswered(seeded(jobs[index]))
                on_done(done[index])

        async def finish(index: int, job: Job, written: Written) -> None:
            done[index] = await self._judge.judged(job, written)
            on_done(done[index])
            await self._patiently(lambda lost: self._forget(written.session_id))

        try:
            async with asyncio.TaskGroup() as beside:
                await closed_loop(one, list(enumerate(jobs)), self.num_sessions)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        # A single question, such as the last one of a run that was killed, shows nothing of the others.
        if len({jobs[index].problem.prompt for index in too_long}) > 1:
            raise next(iter(too_long.values()))
        tell_too_long()
        return [done[index] for index in range(len(jobs))]

    async def _written(self, job: Job, policy: Asked, lost: str) -> Written:
        """Asks, or goes on with the session that was `lost`; anew if the store has lost it, or the head."""
        try:
            events = [event async for event in self._events(job, policy, lost)]
        except NotFound as error:
            if isinstance(policy, Learned) and (head := self._heads.get(policy.name)) is not None:
                await self._put(head)
            elif not lost and error.reason != _UNKNOWN_SESSION:
                raise
            events = [event async for event in self._events(job, policy, "")]
        answer = Answer.of(events)
        return Written(
            answer.text,
            answer.finished.usage.num_prompt_tokens,
            tuple(runs_of_parts(parts_of(events))),
            answer.consultations,
            answer.session_id,
            # Those that were kept are the same ones whatever was killed. Where none were, as in looks at dev, the
            # service's count lacks the runs that broke off.
            len(answer.consultations) or answer.finished.usage.num_consultations,
        )

    def _events(self, job: Job, policy: Asked, lost: str) -> AsyncIterator[Event]:
        if lost:
            return self._client.attach(lost)
        terms, is_learned_from = self._judge.terms, isinstance(policy, Learned) and job.explore_seed is not None
        return self._client.generate(
            **terms.question(job.problem.prompt),
            policy=replace(policy, explore_seed=job.explore_seed) if isinstance(policy, Learned) else policy,
            budget=None if job.llm_tokens is None else Budget(job.llm_tokens),
            max_new_tokens=terms.max_new_tokens,
            stop=terms.stop,
            guard=False,
            keep_consultations=MAX_CONSULTATIONS if is_learned_from else 0,
        )

    async def _put(self, head: Head) -> str:
        return await self._client.store_head(self._name, head.data, active=False, ttl_s=_TTL_S)

    async def _forget(self, session_id: str) -> None:
        with suppress(NotFound):  # its time was over, or the store lost it
            await self._client.delete_trajectory(session_id)

    async def _patiently(self, ask: Callable[[str], Coroutine[Any, Any, T]]) -> T:
        """Asks until there is an answer; told the session that an earlier try has begun, if it is known.

        Raises: RstitchError that is no loss, or the last one when the patience is at its end.
        """
        backoff, lost = Backoff(first_s=0.2, max_s=5.0, patience_s=self._patience_s), ""
        while True:
            try:
                return await ask(lost)
            except RstitchError as error:
                delay_s = None if isinstance(error, Refused) else backoff.next_s(error.retry_after_s or 0.0)
                if delay_s is None:
                    raise
                lost = error.metadata.get("session_id", "")
            await asyncio.sleep(delay_s)
