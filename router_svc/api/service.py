"""RouterService on the wire: requests in, events out. It decides nothing.

An answer belongs to its session and not to the call that asked for it: a call that is cancelled ends its reader only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import structlog

from router_svc.answers.events import Reader
from router_svc.answers.log import AnswerLog
from router_svc.answers.sessions import Sessions
from router_svc.api.messages import (
    encode_event,
    encode_finished,
    encode_guard,
    encode_heads,
    encode_model,
    encode_started,
    encode_trajectory,
)
from router_svc.api.profiles import Profiles
from router_svc.api.validation import check_session_id, encode_page_token, parse_page, parse_reattach
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
    """Serves the contract of router.proto.

    Each method goes the same way: the request is parsed, which refuses what can be refused without looking anywhere;
    then `Sessions` or `Profiles` does what is asked; then their values become messages. Errors are raised, and the
    server turns them into a status.

    Attributes:
        detail: what the start still waits for beside the workers, "" if nothing.
    """

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
        self.detail = ""

    async def Generate(
        self, request: router_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[router_pb2.GenerateResponse]:
        """Begins an answer, or joins the last one of a session, and streams it as it is stored."""
        came = self._sessions.clock()  # first of all: the time to the first token begins here
        if request.HasField("resume_from"):
            asked = parse_reattach(request)
            structlog.contextvars.bind_contextvars(session_id=asked.session_id)
            log = await _run_to_end(self._sessions.attach(asked, came))
            # A reader may ask from within the prompt on; events begin with the answer.
            position = max(asked.resume_from, log.settings.start)
        else:
            question = await self._profiles.question(request)
            log = await _run_to_end(self._sessions.begin(question, came))
            structlog.contextvars.bind_contextvars(session_id=log.session_id)
            position = log.settings.start
        with log.reading():
            async for response in self._events(log, position):
                yield response

    async def _events(self, log: AnswerLog, position: int) -> AsyncIterator[router_pb2.GenerateResponse]:
        """Streams an answer to one reader from its position on; each reader goes at a pace of its own."""
        yield encode_started(log.session_id, log.settings.start, position, log.trace_id)
        reader = Reader(self._pair.tokenizer.decode, log.context, log.settings.stop, position)
        async for chunks in log.follow():
            for event in reader.read(chunks):
                yield encode_event(event)
        outcome = log.outcome
        assert outcome is not None
        if isinstance(outcome, RstitchError):
            raise _with_resume_point(outcome, log, reader.position)
        for event in reader.end():
            yield encode_event(event)
        yield encode_finished(outcome, log.settings)

    async def GetTrajectory(
        self, request: router_pb2.GetTrajectoryRequest, context: Any
    ) -> router_pb2.GetTrajectoryResponse:
        """Returns one trajectory with all its tokens and texts."""
        trajectory = await self._sessions.trajectory(check_session_id(request.session_id))
        decode = self._pair.tokenizer.decode
        # Off the event loop: the text of a long session takes longer than the answers being written may wait.
        message = await asyncio.to_thread(encode_trajectory, trajectory.header, trajectory.chunks, decode)
        return router_pb2.GetTrajectoryResponse(trajectory=message)

    async def ListTrajectories(
        self, request: router_pb2.ListTrajectoriesRequest, context: Any
    ) -> router_pb2.ListTrajectoriesResponse:
        """Returns one page of trajectories without their tokens, those that changed last first."""
        num, before = parse_page(request, self._settings.max_list)
        headers, ended = await self._sessions.page(num, before)
        return router_pb2.ListTrajectoriesResponse(
            trajectories=[encode_trajectory(header) for header in headers],
            next_page_token=encode_page_token(ended),
        )

    async def DeleteTrajectory(
        self, request: router_pb2.DeleteTrajectoryRequest, context: Any
    ) -> router_pb2.DeleteTrajectoryResponse:
        """Stops the answer that is being written in the session, then forgets the session everywhere."""
        await _run_to_end(self._sessions.delete(check_session_id(request.session_id)))
        return router_pb2.DeleteTrajectoryResponse()

    async def PutProfile(self, request: router_pb2.PutProfileRequest, context: Any) -> router_pb2.PutProfileResponse:
        """Keeps a policy under a name, in place of the one that had it."""
        return router_pb2.PutProfileResponse(profile=await self._profiles.put(request.profile))

    async def ListProfiles(
        self, request: router_pb2.ListProfilesRequest, context: Any
    ) -> router_pb2.ListProfilesResponse:
        """Returns every profile, sorted by name."""
        return router_pb2.ListProfilesResponse(profiles=await self._profiles.all())

    async def DeleteProfile(
        self, request: router_pb2.DeleteProfileRequest, context: Any
    ) -> router_pb2.DeleteProfileResponse:
        """Forgets the profile of a name; answers that began with it go on as they are."""
        await self._profiles.delete(request.name)
        return router_pb2.DeleteProfileResponse()

    async def GetStatus(self, request: router_pb2.GetStatusRequest, context: Any) -> router_pb2.GetStatusResponse:
        """Says whether the router is ready, and why not. It answers at any time, also while nothing else does."""
        return router_pb2.GetStatusResponse(
            ready=self._pair.ready and not self.detail and not self._lease.trouble,
            detail="; ".join(filter(None, (self.detail, self._lease.trouble, self._pair.detail))),
            workers=[self._worker(model) for model in Model],
            policies=[*KINDS, "profile"],
            default_tau=self._settings.tau,
            num_running=self._sessions.num_running,
            version=__version__,
            guard=encode_guard(self._sessions.observer.guard_state(), self._sessions.observer.on),
            heads=encode_heads(await asyncio.to_thread(self._heads.states)),
        )

    def _worker(self, model: Model) -> router_pb2.WorkerStatus:
        ready, detail = self._pair.status(model)
        status = router_pb2.WorkerStatus(
            role=encode_model(model), address=self._pair.client(model).address, ready=ready, detail=detail
        )
        info = self._pair.info(model)
        if info is not None:
            status.model = info.model
            status.device = info.device
            status.dtype = info.dtype
            status.num_parameters = info.num_parameters
            status.context_length = info.context_length
        return status


async def _run_to_end(work: Awaitable[_T]) -> _T:
    """Lets `work` run to its end even if the call is cancelled: half a claim would leave a session without a writer."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # Nobody will ask for the result any more; an exception that nobody looks at would be logged as a bug.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


def _with_resume_point(error: RstitchError, log: AnswerLog, position: int) -> RstitchError:
    """The error with facts for a client that reconnects: how much is stored, and where this reader can go on.

    A copy, as each reader of the answer has a position of its own.
    """
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
