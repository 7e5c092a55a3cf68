"""What the SLM would have thought along an answer: its worker is led along it and tells of the positions asked for.

Nothing is written and nothing kept: whoever loses the stream asks again. A worker that is lost on the way is waited
for, and goes on behind what it has told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import grpc

from router_svc.access.quotas import Quotas
from router_svc.answers import refusals
from router_svc.answers.courses import Course, course_of_given, course_of_kept
from router_svc.answers.preparation import Preparation, check_same
from router_svc.answers.request import GivenAnswer
from router_svc.decoding.recovery import Recovery
from router_svc.observers.observing import Observation, ObservingTrace
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import Model, State
from router_svc.workers.bound import BoundSession
from router_svc.workers.client import WorkerClient
from rstitch.errors import RstitchError
from rstitch.service.metrics import Metrics
from rstitch.service.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Observed:
    """Some positions of an answer, in order.

    Attributes:
        consultations: without a head's part; positions as the course counts them, proposals in the SLM's ids.
        tokens: that stand there, one for each, in the SLM's ids.
        writers: of these; None: nobody's.
        num_positions: that were looked at for these.
    """

    consultations: Sequence[Consultation]
    tokens: Sequence[int]
    writers: Sequence[Model | None]
    num_positions: int


class Observing:
    """Observes answers with this router's models and what is kept in its store, as many at once as it may write.

    `check_open` raises RstitchError while nothing new may begin.
    """

    def __init__(
        self,
        preparation: Preparation,
        store: TrajectoryStore,
        quotas: Quotas,
        check_open: Callable[[], None],
        telemetry: Telemetry,
        metrics: Metrics,
    ) -> None:
        self._preparation = preparation
        self._store = store
        self._quotas = quotas
        self._check_open = check_open
        self._trace = ObservingTrace(telemetry, metrics)
        self._num_running = 0

    async def observe(self, asked: str | GivenAnswer, tau: float) -> AsyncGenerator[Observed, None]:
        """Yields, of a session's last answer or of a given one, the positions where the SLM's entropy is over `tau`.

        A session is asked for by its name. Raises RstitchError: NOT_FOUND, FAILED_PRECONDITION (not finished, or in
        other ids), OUT_OF_RANGE (too long for the SLM), RESOURCE_EXHAUSTED (too many at once), UNAVAILABLE (the router
        takes nothing new, or the worker is away for longer than its patience).
        """
        with self._trace.observation(asked if isinstance(asked, str) else "", tau) as observation:
            self._check_open()
            most = self._preparation.settings.max_running
            if self._num_running >= most:
                raise refusals.too_many_answers(self._num_running, most, "observed")
            self._num_running += 1
            try:
                async with (
                    self._quotas.admission("") as admission,
                    aclosing(self._along(asked, tau, observation)) as found,
                ):
                    await admission.enter()
                    async for each in found:
                        yield each
            finally:
                self._num_running -= 1

    async def _along(
        self, asked: str | GivenAnswer, tau: float, observation: Observation
    ) -> AsyncGenerator[Observed, None]:
        vocabularies = self._preparation.fleet.vocabularies
        if isinstance(asked, GivenAnswer):
            course = await self._given(asked, vocabularies)
        else:
            course = await self._kept(asked, vocabularies)
        settings = self._preparation.settings
        patience_s = (settings.worker_patience_s, settings.capacity_patience_s)
        fleet, name = self._preparation.fleet, asked if isinstance(asked, str) else ""
        # It is led along by any worker: none has the session, and the least loaded has the time.
        bound = BoundSession.bind(fleet, name, None, {Model.SLM: len(course.tokens)}, begins=True)
        recovery = Recovery(fleet, bound, vocabularies, *patience_s)
        at = course.start
        observation.begins_at(at)
        while at < len(course.tokens):
            try:
                led = self._led(recovery.client(Model.SLM), course, at, tau, vocabularies)
                async with aclosing(led) as told:
                    async for consultations, num in told:
                        recovery.progress()
                        at += num
                        observation.add(num, len(consultations))
                        yield _observed(course, consultations, num)
            except RstitchError as error:
                await _wait_after(error, recovery)

    async def _led(
        self, client: WorkerClient, course: Course, at: int, tau: float, vocabularies: Vocabularies
    ) -> AsyncGenerator[tuple[list[Consultation], int], None]:
        """One call of the worker, from a position of the course to its end. Raises RstitchError."""
        end = len(course.tokens)
        masked, salt = vocabularies.matching.masked[Model.SLM], course.cache_salt
        call = client.observe(course.tokens, at, above=tau, masked_tokens=masked, cache_salt=salt)
        async with aclosing(call) as told:
            async for consultations, num in told:
                begin, at = at, at + num
                if at > end or not all(begin <= each.position < at for each in consultations):
                    raise _broken()
                yield consultations, num
        if at < end:
            raise _broken()

    async def _kept(self, name: str, vocabularies: Vocabularies) -> Course:
        trajectory = await self._store.trajectory(name)
        if trajectory is None:
            raise refusals.unknown_session(name)
        if trajectory.header.state is not State.FINISHED:
            raise refusals.not_finished(name, trajectory.header.state)
        settings = AnswerSettings.from_json(trajectory.header.settings)
        check_same(settings, vocabularies)
        course = await asyncio.to_thread(course_of_kept, trajectory, settings, vocabularies)
        self._check_fits(course, "session_id", "Serve the SLM that the session was written with.")
        return course

    async def _given(self, given: GivenAnswer, vocabularies: Vocabularies) -> Course:
        own, most = self._preparation.settings.prompt == "own", self._context_length()
        try:
            course = await self._preparation.apart.make(
                lambda: course_of_given(given, vocabularies, most, each_its_own=own), given.num_bytes
            )
        except RstitchError as error:
            if error.field is not None:
                error.field = f"given.{error.field}"
            raise
        field = "given.chat" if course.start >= self._context_length() else "given.text"
        self._check_fits(course, field, "Shorten it.")
        return course

    def _context_length(self) -> int:
        return self._preparation.fleet.context_lengths()[Model.SLM]

    def _check_fits(self, course: Course, field: str, remedy: str) -> None:
        num, most = len(course.tokens), self._context_length()
        if num > most:
            what = f"prompt and answer are {num} tokens to the SLM, whose context is {most}."
            raise RstitchError(grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_FULL", what, field=field, remedy=remedy)


def _observed(course: Course, consultations: Sequence[Consultation], num_positions: int) -> Observed:
    places = [each.position - course.start for each in consultations]
    return Observed(
        [replace(each, position=course.positions[place]) for each, place in zip(consultations, places, strict=True)],
        [course.tokens[each.position] for each in consultations],
        [course.writers[place] for place in places],
        num_positions,
    )


async def _wait_after(error: RstitchError, recovery: Recovery) -> None:
    """Returns when another call is worth a try. Raises RstitchError when it is not."""
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        what, remedy = (
            "the SLM's worker is of a release that observes nothing.",
            "Run workers and router of one version.",
        )
        raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "WORKER_TOO_OLD", what, remedy=remedy)
    try:
        await recovery.after(Model.SLM, error)
    except RstitchError as last:
        if last.reason in ("WORKER_UNAVAILABLE", "TOKENIZER_CHANGED"):
            last.remedy = "Start the SLM's worker again, with the model that it had, then ask again."
        raise


def _broken() -> RstitchError:
    what = "the SLM's worker told of other positions than it was asked for."
    return RstitchError(grpc.StatusCode.INTERNAL, "PROTOCOL", what, remedy="Run workers and router of one version.")
