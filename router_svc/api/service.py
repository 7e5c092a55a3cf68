"""RouterService on the wire: requests in, events out. It decides nothing.

An answer belongs to its session and not to the call that asked for it: a call that is cancelled ends its reader only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog

from router_svc.answers.events import Reader
from router_svc.answers.log import AnswerLog
from router_svc.answers.preparation import is_kept_in
from router_svc.answers.prompts import check_size
from router_svc.answers.sessions import Sessions
from router_svc.answers.tokenizing import detokenize, tokenize
from router_svc.api import messages
from router_svc.api.pages import encode_page_token, parse_page
from router_svc.api.profiles import Profiles
from router_svc.api.validation import (
    check_session_id,
    parse_label,
    parse_model,
    parse_observed,
    parse_reattach,
    parse_tokenized,
)
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.kinds import KINDS
from router_svc.policies.stored_heads import StoredHeads
from router_svc.settings import RouterSettings
from router_svc.trajectory.lease import Lease
from router_svc.trajectory.session_names import session_name
from router_svc.trajectory.types import Model, tokens_of
from router_svc.workers.draining import drain
from router_svc.workers.fleet import Fleet
from router_svc.workers.member import Member
from rstitch import __version__
from rstitch.errors import RstitchError
from rstitch.service.caller import Scope, caller
from rstitch.v1 import router_pb2, router_pb2_grpc

_MANY_IDS = 65_536
# Characters of a prompt's end, and more tokens than those have.
_PROMPT_END = 64


@dataclass(eq=False)
class RouterService(router_pb2_grpc.RouterServiceServicer):
    """Serves the contract of router.proto.

    Each method goes the same way: the request is parsed, which refuses what can be refused without looking anywhere;
    then `Sessions`, `Profiles` or `StoredHeads` does what is asked; then their values become messages. Errors are
    raised, and the server turns them into a status.

    Sessions and profiles are their tenant's. Whose a call is, is looked up here and nowhere deeper (only what its key
    may take `Quotas` looks up itself): whatever scopes a key has, that of an administrator included, its caller sees
    the sessions of its own tenant, and no others exist for it.
    Who may call a method at all is not decided here. Heads belong to whoever runs the router, and all may use them.
    """

    settings: RouterSettings
    fleet: Fleet
    sessions: Sessions
    lease: Lease
    profiles: Profiles
    heads: StoredHeads
    detail: str = ""  # what the start still waits for beside the workers

    async def Generate(
        self, request: router_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[router_pb2.GenerateResponse]:
        """Begins an answer, or joins the last one of a session, and streams it as it is stored."""
        came = self.sessions.clock()  # first of all: the time to the first token begins here
        tenant, takes_more, gather_s = _tenant(), request.takes_more, request.gather_ms / 1000
        if request.HasField("resume_from"):
            asked = parse_reattach(request, tenant)
            structlog.contextvars.bind_contextvars(session_id=asked.session_id)
            log = await self.sessions.under_way.run(self.sessions.attach(asked, came), AnswerLog.was_left)
            # A reader may ask from within the prompt on; events begin with the answer.
            position = max(asked.resume_from, log.settings.start)
        else:
            if len(request.tokens.ids) > _MANY_IDS:  # not even copied if they cannot fit
                check_size(len(request.tokens.ids), self.fleet.context_lengths())
            question = await self.profiles.question(request, tenant)
            del request  # it may be megabytes
            log = await self.sessions.under_way.run(self.sessions.begin(question, came), AnswerLog.was_left)
            structlog.contextvars.bind_contextvars(session_id=log.session_id)
            position = log.settings.start
        with log.reading():
            yield router_pb2.GenerateResponse(started=_started(log, position))
            reader = Reader(log.tokenizers, log.context, log.settings.stop, position)
            async for chunks in log.follow(gather_s):
                # Those together that are there at the same time.
                ready = [messages.encode_event(event, log.tokenizers) for event in reader.read(chunks)]
                for response in messages.gathered(ready) if takes_more else ready:
                    yield response
            outcome = log.outcome
            assert outcome is not None
            if isinstance(outcome, RstitchError):
                raise _with_resume_point(outcome, log, reader.position)
            ready = [messages.encode_event(event, log.tokenizers) for event in reader.end()]
            ready.append(router_pb2.GenerateResponse(finished=messages.encode_finished(outcome, log.settings)))
            for response in messages.gathered(ready) if takes_more else ready:
                yield response

    async def GetTrajectory(
        self, request: router_pb2.GetTrajectoryRequest, context: Any
    ) -> router_pb2.GetTrajectoryResponse:
        trajectory = await self.sessions.kept.trajectory(_name(request.session_id))
        vocabularies = self.fleet.vocabularies
        is_same = is_kept_in(AnswerSettings.from_json(trajectory.header.settings), vocabularies)
        tokenizers = vocabularies.answer_tokenizers if is_same else None  # else these would read other words
        # Off the event loop: the text of a long session takes longer than the answers being written may wait.
        message = await asyncio.to_thread(
            messages.encode_trajectory,
            trajectory.header,
            trajectory.chunks,
            tokenizers,
            consultations=request.consultations,
            details=request.details,
        )
        return router_pb2.GetTrajectoryResponse(trajectory=message)

    async def ListTrajectories(
        self, request: router_pb2.ListTrajectoriesRequest, context: Any
    ) -> router_pb2.ListTrajectoriesResponse:
        tenant = _tenant()
        num, before = parse_page(request, self.settings.max_list, tenant)
        headers, ended = await self.sessions.kept.page(tenant, num, before, labelled=request.labelled)
        return router_pb2.ListTrajectoriesResponse(
            trajectories=[messages.encode_trajectory(header) for header in headers],
            next_page_token=encode_page_token(ended, tenant, labelled=request.labelled),
        )

    async def LabelTrajectory(
        self, request: router_pb2.LabelTrajectoryRequest, context: Any
    ) -> router_pb2.LabelTrajectoryResponse:
        await self.sessions.kept.label(_name(request.session_id), parse_label(request.label))
        return router_pb2.LabelTrajectoryResponse()

    async def CancelGeneration(
        self, request: router_pb2.CancelGenerationRequest, context: Any
    ) -> router_pb2.CancelGenerationResponse:
        """Ends the answer that is being written in the session, here or on another router; what is written is kept."""
        ended = await self.sessions.cancel(_name(request.session_id))
        state = f"TRAJECTORY_STATE_{ended.state.name}"
        return router_pb2.CancelGenerationResponse(cancelled=ended.was_cancelled, state=state, length=ended.length)

    async def DeleteTrajectory(
        self, request: router_pb2.DeleteTrajectoryRequest, context: Any
    ) -> router_pb2.DeleteTrajectoryResponse:
        """Stops the answer that is being written in the session, then forgets the session everywhere."""
        await self.sessions.under_way.run(self.sessions.delete(_name(request.session_id)))
        return router_pb2.DeleteTrajectoryResponse()

    async def ObserveAnswer(
        self, request: router_pb2.ObserveAnswerRequest, context: Any
    ) -> AsyncIterator[router_pb2.ObserveAnswerResponse]:
        """Streams what the SLM would have thought along an answer; a call that is cancelled ends the worker's."""
        asked, tau = parse_observed(request, _tenant())
        async with aclosing(self.sessions.observing.observe(asked, tau)) as found:
            async for observed in found:
                yield messages.encode_observed(observed)

    async def Tokenize(self, request: router_pb2.TokenizeRequest, context: Any) -> router_pb2.TokenizeResponse:
        made = await tokenize(self.sessions.preparation, *parse_tokenized(request))
        return router_pb2.TokenizeResponse(tokens=made.tokens, texts=made.texts, context_length=made.context_length)

    async def Detokenize(self, request: router_pb2.DetokenizeRequest, context: Any) -> router_pb2.DetokenizeResponse:
        model = parse_model("model", request.model)
        text = await detokenize(self.sessions.preparation, tokens_of(request.tokens), model)
        return router_pb2.DetokenizeResponse(text=text)

    async def PutProfile(self, request: router_pb2.PutProfileRequest, context: Any) -> router_pb2.PutProfileResponse:
        return router_pb2.PutProfileResponse(profile=await self.profiles.put(request.profile, _tenant()))

    async def ListProfiles(
        self, request: router_pb2.ListProfilesRequest, context: Any
    ) -> router_pb2.ListProfilesResponse:
        return router_pb2.ListProfilesResponse(profiles=await self.profiles.all(_tenant()))

    async def DeleteProfile(
        self, request: router_pb2.DeleteProfileRequest, context: Any
    ) -> router_pb2.DeleteProfileResponse:
        """Forgets the caller's profile of a name; answers that began with it go on as they are."""
        await self.profiles.delete(request.name, _tenant())
        return router_pb2.DeleteProfileResponse()

    async def StoreHead(self, request: router_pb2.StoreHeadRequest, context: Any) -> router_pb2.StoreHeadResponse:
        """Keeps a head where all routers find it; answers that have begun are not touched."""
        active, ttl_s, description = not request.inactive, request.ttl_s, request.description
        put = self.heads.put(request.name, request.data, active=active, ttl_s=ttl_s, description=description)
        return router_pb2.StoreHeadResponse(full_name=await put)

    async def ActivateHead(
        self, request: router_pb2.ActivateHeadRequest, context: Any
    ) -> router_pb2.ActivateHeadResponse:
        return router_pb2.ActivateHeadResponse(full_name=await self.heads.activate(request.name, request.version))

    async def DeleteHead(self, request: router_pb2.DeleteHeadRequest, context: Any) -> router_pb2.DeleteHeadResponse:
        await self.heads.delete(request.name)
        return router_pb2.DeleteHeadResponse()

    async def GetStatus(self, request: router_pb2.GetStatusRequest, context: Any) -> router_pb2.GetStatusResponse:
        """Says whether the router is ready, and why not. It answers at any time, also while nothing else does."""
        status = router_pb2.GetStatusResponse(
            ready=self.fleet.ready and not self.detail and not self.lease.trouble,
            detail="; ".join(filter(None, (self.detail, self.lease.trouble, self.fleet.detail))),
            workers=[self._worker(model) for model in Model],
            policies=[*KINDS, "profile"],
            default_tau=self.settings.tau,
            num_running=self.sessions.num_running,
            version=__version__,
            guard=messages.encode_guard(self.sessions.observer.guard_state(), self.sessions.observer.is_on),
            heads=messages.encode_heads(await self.heads.states()),
            vocabularies=self.fleet.told,
            members=[self._member(member) for member in self.fleet.members()],
        )
        return status if Scope.ADMIN in caller().scopes else messages.without_places(status)

    async def DrainWorker(
        self, request: router_pb2.DrainWorkerRequest, context: Any
    ) -> AsyncIterator[router_pb2.DrainWorkerResponse]:
        """Lets a worker run empty and tells how far it is; a caller that leaves takes nothing back."""
        async with aclosing(drain(self.fleet, request.worker_id, undo=request.undo)) as told:
            async for left in told:
                yield router_pb2.DrainWorkerResponse(
                    num_running=left.num_running, num_streams=left.num_streams, is_empty=left.is_empty
                )

    def _member(self, member: Member) -> router_pb2.WorkerMember:
        now = time.monotonic()
        ready, detail = member.status(now)
        return messages.encode_member(member, ready, detail, member.load.num_bound(now))

    def _worker(self, model: Model) -> router_pb2.WorkerStatus:
        ready, detail = self.fleet.status(model)
        status = router_pb2.WorkerStatus(
            role=messages.encode_model(model), address=self.fleet.address(model), ready=ready, detail=detail
        )
        info = self.fleet.info(model)
        if info is not None:
            for name in ("model", "device", "dtype", "num_parameters", "context_length"):
                setattr(status, name, getattr(info, name))
        return status


def _tenant() -> str:
    """Whose call this is; what is logged for it, also by the tasks that it starts, says so from here on."""
    tenant = caller().tenant
    if tenant:
        structlog.contextvars.bind_contextvars(tenant=tenant)
    return tenant


def _name(session_id: str) -> str:
    """The name of the caller's session with that id. Raises RstitchError if it is none."""
    return session_name(_tenant(), check_session_id(session_id))


def _started(log: AnswerLog, position: int) -> router_pb2.Started:
    return router_pb2.Started(
        session_id=log.session_id,
        num_prompt_tokens=log.settings.start,
        position=position,
        trace_id=log.settings.trace_id,
        prompt_end=_end_of(log),
    )


def _end_of(log: AnswerLog) -> str:
    """How the prompt of an answer ends, special tokens spelled out."""
    return log.tokenizers[Model.LLM].spelled(log.context[-_PROMPT_END:])[-_PROMPT_END:]


def _with_resume_point(error: RstitchError, log: AnswerLog, position: int) -> RstitchError:
    """The error with facts for a client that reconnects: how much is stored, and where this reader can go on.

    A copy, as each reader of the answer has a position of its own.
    """
    length = str(log.length)
    return RstitchError(
        error.code,
        error.reason,
        error.message,
        field=error.field,
        remedy=error.remedy or "Re-attach with resume_from.",
        metadata={**error.metadata, "session_id": log.session_id, "resume_from": str(position), "length": length},
        retry_after_s=error.retry_after_s,
    )
