"""RouterService on the wire: requests in, events out. It decides nothing; a cancelled call takes nothing along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import structlog

from router_svc.answers.events import Reader
from router_svc.answers.log import AnswerLog
from router_svc.answers.sessions import Sessions
from router_svc.api import messages as convert
from router_svc.api import validation
from router_svc.api.profiles import Profiles
from router_svc.policies.heads import Heads
from router_svc.policies.kinds import KINDS
from router_svc.settings import RouterSettings
from router_svc.trajectory.lease import Lease
from router_svc.trajectory.types import Model
from router_svc.workers.pair import WorkerPair
from rstitch import __version__
from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2, router_pb2_grpc

_T = TypeVar("_T")


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """The contract of router.proto."""

    def __init__(
        self,
        settings: RouterSettings,
        pair: WorkerPair,
        sessions: Sessions,
        lease: Lease,
        profiles: Profiles,
        heads: Heads,
    ) -> None:
        self._settings = settings
        self._profiles = profiles
        self._heads = heads
        self._pair = pair
        self._sessions = sessions
        self._lease = lease
        self.detail = ""  # what the start waits for beside the workers

    async def Generate(
        self, request: router_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[router_pb2.GenerateResponse]:
        """Begins an answer, or joins one, and shows it as it is stored."""
        came = self._sessions.clock()
        if request.HasField("resume_from"):
            asked = validation.reattach(request)
            structlog.contextvars.bind_contextvars(session_id=asked.session_id)
            log = await _out_of_reach(self._sessions.attach(asked, came))
            position = max(asked.resume_from, log.settings.start)
        else:
            question = await self._profiles.question(request)
            log = await _out_of_reach(self._sessions.begin(question, came))
            structlog.contextvars.bind_contextvars(session_id=log.session_id)
            position = log.settings.start
        with log.reading():
            async for response in self._events(log, position):
                yield response

    async def _events(self, log: AnswerLog, position: int) -> AsyncIterator[router_pb2.GenerateResponse]:
        yield convert.started(log.session_id, log.settings.start, position, log.trace_id)
        reader = Reader(self._pair.tokenizer.decode, log.context, log.settings.stop, position)
        async for chunks in log.follow():
            for event in reader.read(chunks):
                yield convert.event(event)
        outcome = log.outcome
        assert outcome is not None
        if isinstance(outcome, RstitchError):
            raise _with_way_on(outcome, log, reader.position)
        for event in reader.end():
            yield convert.event(event)
        yield convert.finished(outcome, log.settings)

    async def GetTrajectory(
        self, request: router_pb2.GetTrajectoryRequest, context: Any
    ) -> router_pb2.GetTrajectoryResponse:
        """One trajectory, whole."""
        trajectory = await self._sessions.trajectory(validation.session_id(request.session_id))
        decode = self._pair.tokenizer.decode
        message = await asyncio.to_thread(convert.trajectory, trajectory.header, trajectory.chunks, decode)
        return router_pb2.GetTrajectoryResponse(trajectory=message)

    async def ListTrajectories(
        self, request: router_pb2.ListTrajectoriesRequest, context: Any
    ) -> router_pb2.ListTrajectoriesResponse:
        """A page of them."""
        num, before = validation.page(request, self._settings.max_list)
        headers, ended = await self._sessions.page(num, before)
        return router_pb2.ListTrajectoriesResponse(
            trajectories=[convert.trajectory(header) for header in headers],
            next_page_token=validation.page_token(ended),
        )

    async def DeleteTrajectory(
        self, request: router_pb2.DeleteTrajectoryRequest, context: Any
    ) -> router_pb2.DeleteTrajectoryResponse:
        """Stops it, then forgets it."""
        await _out_of_reach(self._sessions.delete(validation.session_id(request.session_id)))
        return router_pb2.DeleteTrajectoryResponse()

    async def PutProfile(self, request: router_pb2.PutProfileRequest, context: Any) -> router_pb2.PutProfileResponse:
        """Keeps a policy under a name."""
        return router_pb2.PutProfileResponse(profile=await self._profiles.put(request.profile))

    async def ListProfiles(
        self, request: router_pb2.ListProfilesRequest, context: Any
    ) -> router_pb2.ListProfilesResponse:
        """All of them, by name."""
        return router_pb2.ListProfilesResponse(profiles=await self._profiles.all())

    async def DeleteProfile(
        self, request: router_pb2.DeleteProfileRequest, context: Any
    ) -> router_pb2.DeleteProfileResponse:
        """Forgets one."""
        await self._profiles.delete(request.name)
        return router_pb2.DeleteProfileResponse()

    async def GetStatus(self, request: router_pb2.GetStatusRequest, context: Any) -> router_pb2.GetStatusResponse:
        """Answers at any time, also while nothing else does."""
        return router_pb2.GetStatusResponse(
            ready=self._pair.ready and not self.detail and not self._lease.trouble,
            detail="; ".join(filter(None, (self.detail, self._lease.trouble, self._pair.detail))),
            workers=[self._worker(model) for model in Model],
            policies=[*KINDS, "profile"],
            default_tau=self._settings.tau,
            num_running=self._sessions.num_running,
            version=__version__,
            guard=convert.guard_status(self._sessions.observer.view(), self._sessions.observer.on),
            heads=convert.heads(await asyncio.to_thread(self._heads.states)),
        )

    def _worker(self, model: Model) -> router_pb2.WorkerStatus:
        ready, detail = self._pair.status(model)
        status = router_pb2.WorkerStatus(
            role=convert.model(model), address=self._pair.client(model).address, ready=ready, detail=detail
        )
        info = self._pair.info(model)
        if info is not None:
            status.model = info.model
            status.device = info.device
            status.dtype = info.dtype
            status.num_parameters = info.num_parameters
            status.context_length = info.context_length
        return status


async def _out_of_reach(work: Awaitable[_T]) -> _T:
    """Lets `work` run to its end whatever becomes of the call."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


def _with_way_on(error: RstitchError, log: AnswerLog, position: int) -> RstitchError:
    """The error, with what is kept and where this reader can go on."""
    return RstitchError(
        error.code,
        error.reason,
        error.message,
        field=error.field,
        remedy=error.remedy or "Re-attach with resume_from.",
        metadata={
            **error.metadata,
            "session_id": log.session_id,
            "resume_from": str(position),
            "length": str(log.length),
        },
        retry_after_s=error.retry_after_s,
    )
