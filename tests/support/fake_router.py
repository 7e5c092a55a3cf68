"""A router without models: it answers from a script, on a real wire, and loses streams when told to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rstitch.channels import server_options
from rstitch.errors import RstitchError, invalid, to_status
from rstitch.v1 import common_pb2, router_pb2_grpc
from rstitch.v1 import router_pb2 as pb
from tests.support.scripted_answer import LLM, NUM_PROMPT_TOKENS, SLM, detailed, rest_from, script


class _Seeing(grpc.ServerInterceptor):
    """Notes the name and the metadata of each call."""

    def __init__(self, calls: list[tuple[str, dict[str, Any]]]) -> None:
        self._calls = calls

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        name = handler_call_details.method.rpartition("/")[2]
        self._calls.append((name, dict(handler_call_details.invocation_metadata)))
        return continuation(handler_call_details)


class FakeRouter(router_pb2_grpc.RouterServiceServicer):
    """Keeps sessions like the real one. `before_event(n)` runs before the n-th event of any stream and may raise."""

    def __init__(self) -> None:
        self.profiles: dict[str, pb.Profile] = {}
        self.labels: dict[str, int] = {}
        self.heads: list[pb.HeadStatus] = []
        self.head_calls: list[Any] = []
        self.observed: list[pb.ObserveAnswerRequest] = []
        self.tokenized: list[pb.TokenizeRequest | pb.DetokenizeRequest] = []
        self.cancelled: list[str] = []
        self.before_event: Callable[[int], None] = lambda n: None
        # How many events come in one message, at most.
        self.at_once = 1
        self.answer = script()
        self.questions: list[pb.GenerateRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.deadlines: list[float | None] = []
        self.ready = True
        self.workers_ready = True
        self.workers_silent = False  # though they still count as ready
        self.members: list[pb.WorkerMember] = []
        # What `DrainWorker` tells, call by call; without an end the stream stays open. An error ends it.
        self.drains: list[list[pb.DrainWorkerResponse | RstitchError]] = []
        self.drained: list[pb.DrainWorkerRequest] = []
        # Set when a call of Generate has ended, however it did.
        self.ended = threading.Event()
        self._sessions: dict[str, list[pb.GenerateResponse]] = {}
        self._last: dict[str, str] = {}  # the id of each session's last question
        self._count = itertools.count()
        self._lock = threading.Lock()
        # Of each call, health included.
        self.calls: list[tuple[str, dict[str, Any]]] = []
        seen = (_Seeing(self.calls),)
        self._server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=seen, options=server_options())
        router_pb2_grpc.add_RouterServiceServicer_to_server(self, self._server)
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._server.stop(None).wait()

    def Generate(self, request: pb.GenerateRequest, context: Any) -> Iterator[pb.GenerateResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        self.deadlines.append(context.time_remaining())
        context.add_callback(self.ended.set)
        num = self.at_once if request.takes_more else 1
        gathered: list[pb.GenerateResponse] = []
        try:
            for event in self._generate(request):
                gathered.append(event)
                if len(gathered) == num:
                    yield _one(gathered)
            if gathered:
                yield _one(gathered)
        except RstitchError as error:
            if not error.reason:  # as the library itself ends a call
                context.abort(error.code, error.message)
            context.abort_with_status(to_status(error))

    def _generate(self, request: pb.GenerateRequest) -> Iterator[pb.GenerateResponse]:
        self.before_event(next(self._count))
        session_id = request.session_id or "made-by-the-router"
        if not request.HasField("resume_from"):
            if request.text == "refuse":
                raise invalid("policy.threshold.tau", "tau is 7.", "Give a number in [-1, 2].")
            if not request.request_id or self._last.get(session_id) != request.request_id:
                self._begin(session_id, request)
        elif session_id not in self._sessions:
            raise RstitchError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION", f"there is no session {session_id}.")
        start = max(request.resume_from, NUM_PROMPT_TOKENS)
        self.before_event(next(self._count))
        started = pb.Started(
            session_id=session_id, num_prompt_tokens=NUM_PROMPT_TOKENS, position=start, trace_id="ab" * 16
        )
        yield pb.GenerateResponse(started=started)
        for event in self._sessions[session_id]:
            rest = rest_from(event, start)
            if rest is not None:
                self.before_event(next(self._count))
                yield rest

    def _begin(self, session_id: str, request: pb.GenerateRequest) -> None:
        if request.only_if_new and session_id in self._sessions:
            raise RstitchError(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS", f"there is a session {session_id}.")
        self.questions.append(request)
        asks = request.details.top_logprobs if request.HasField("details") else None
        self._sessions[session_id] = [detailed(event, asks) for event in self.answer]
        self._last[session_id] = request.request_id

    def GetTrajectory(self, request: pb.GetTrajectoryRequest, context: Any) -> pb.GetTrajectoryResponse:
        if request.session_id not in self._sessions:
            error = RstitchError(
                grpc.StatusCode.NOT_FOUND,
                "UNKNOWN_SESSION",
                f"there is no session {request.session_id}.",
                remedy="`rstitch trajectory ls` lists those kept.",
            )
            context.abort_with_status(to_status(error))
        return pb.GetTrajectoryResponse(trajectory=self._trajectory(request.session_id, details=request.details))

    def ListTrajectories(self, request: pb.ListTrajectoriesRequest, context: Any) -> pb.ListTrajectoriesResponse:
        names, start = sorted(self._sessions), int(request.page_token or 0)
        names = [name for name in names if self.labels.get(name) or not request.labelled]
        page = names[start : start + (request.page_size or 2)]
        more = start + len(page) < len(names)
        trajectories = [self._trajectory(name) for name in page]
        for trajectory in trajectories:
            del trajectory.segments[:]
        return pb.ListTrajectoriesResponse(
            trajectories=trajectories, next_page_token=str(start + len(page)) if more else ""
        )

    def LabelTrajectory(self, request: pb.LabelTrajectoryRequest, context: Any) -> pb.LabelTrajectoryResponse:
        if request.session_id == "lost":
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost by the test")
        if request.session_id not in self._sessions:
            error = RstitchError(
                grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION", f"there is no session {request.session_id}."
            )
            context.abort_with_status(to_status(error))
        self.labels[request.session_id] = request.label
        return pb.LabelTrajectoryResponse()

    def ObserveAnswer(self, request: pb.ObserveAnswerRequest, context: Any) -> Iterator[pb.ObserveAnswerResponse]:
        context.add_callback(self.ended.set)
        self.observed.append(request)
        if request.session_id == "nobody":
            error = RstitchError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION", "there is no session nobody.")
            context.abort_with_status(to_status(error))
        for part in range(3):
            self.before_event(next(self._count))
            asked = [
                common_pb2.Consultation(
                    position=5 + part, hidden_state=b"\0<", entropy=0.5, proposal=7, context_length=part
                )
            ]
            writers = [SLM if part else LLM] if request.session_id else [common_pb2.MODEL_UNSPECIFIED]
            yield pb.ObserveAnswerResponse(consultations=asked, tokens=[part], writers=writers, num_positions=4)
            yield pb.ObserveAnswerResponse(num_positions=4)

    def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        self.tokenized.append(request)
        texts = [letter.encode() for letter in request.text or request.chat.messages[0].content]
        return pb.TokenizeResponse(tokens=[text[0] for text in texts], texts=texts, context_length=512)

    def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeResponse:
        self.tokenized.append(request)
        return pb.DetokenizeResponse(text="".join(map(chr, request.tokens)))

    def CancelGeneration(self, request: pb.CancelGenerationRequest, context: Any) -> pb.CancelGenerationResponse:
        self.cancelled.append(request.session_id)
        if request.session_id == "unknown":
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no session unknown.")
        is_running = request.session_id != "over"
        state = pb.TRAJECTORY_STATE_INTERRUPTED if is_running else pb.TRAJECTORY_STATE_FINISHED
        return pb.CancelGenerationResponse(cancelled=is_running, state=state, length=9)

    def DeleteTrajectory(self, request: pb.DeleteTrajectoryRequest, context: Any) -> pb.DeleteTrajectoryResponse:
        self._sessions.pop(request.session_id, None)
        return pb.DeleteTrajectoryResponse()

    def PutProfile(self, request: pb.PutProfileRequest, context: Any) -> pb.PutProfileResponse:
        self.profiles[request.profile.name] = request.profile
        return pb.PutProfileResponse(profile=request.profile)

    def ListProfiles(self, request: pb.ListProfilesRequest, context: Any) -> pb.ListProfilesResponse:
        return pb.ListProfilesResponse(profiles=[self.profiles[name] for name in sorted(self.profiles)])

    def DeleteProfile(self, request: pb.DeleteProfileRequest, context: Any) -> pb.DeleteProfileResponse:
        del self.profiles[request.name]
        return pb.DeleteProfileResponse()

    def StoreHead(self, request: pb.StoreHeadRequest, context: Any) -> pb.StoreHeadResponse:
        self.head_calls.append(request)
        if request.data == b"no head":
            context.abort_with_status(to_status(invalid("data", "it cannot be used.", "Send another.")))
        return pb.StoreHeadResponse(full_name=f"{request.name}@abc")

    def ActivateHead(self, request: pb.ActivateHeadRequest, context: Any) -> pb.ActivateHeadResponse:
        self.head_calls.append(request)
        return pb.ActivateHeadResponse(full_name=f"{request.name}@{request.version or 'before'}")

    def DeleteHead(self, request: pb.DeleteHeadRequest, context: Any) -> pb.DeleteHeadResponse:
        self.head_calls.append(request)
        return pb.DeleteHeadResponse()

    def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        workers = [
            pb.WorkerStatus(
                role=role,
                address="127.0.0.1:1",
                ready=self.ready and self.workers_ready,
                model="m",
                device="cpu",
                dtype="float32",
                detail="" if self.ready and self.workers_ready and not self.workers_silent else "no answer",
            )
            for role in (SLM, LLM)
        ]
        return pb.GetStatusResponse(
            ready=self.ready,
            detail="" if self.ready else "waiting for the SLM worker",
            workers=workers,
            policies=["threshold", "llm_only"],
            default_tau=0.02,
            version="9",
            heads=self.heads,
            guard=pb.GuardStatus(reason="routed answers took 0.40x as long.", default_guard=pb.GUARD_OFF),
            members=self.members,
            vocabularies="3 text tokens under the same spelling; masked: SLM 2 [user]",
        )

    def DrainWorker(self, request: pb.DrainWorkerRequest, context: Any) -> Iterator[pb.DrainWorkerResponse]:
        self.drained.append(request)
        left = threading.Event()
        context.add_callback(left.set)
        for told in self.drains.pop(0):
            if isinstance(told, RstitchError):
                context.abort_with_status(to_status(told))
            else:
                yield told
                if told.is_empty or request.undo:
                    return
        left.wait()

    def set_health(self, serving: bool) -> None:
        kinds = health_pb2.HealthCheckResponse
        self.health.set("", kinds.SERVING if serving else kinds.NOT_SERVING)

    def _trajectory(self, name: str, *, details: bool = False) -> pb.Trajectory:
        segments = [pb.Segment(source=pb.SOURCE_PROMPT, tokens=range(NUM_PROMPT_TOKENS), text="What? ")]
        for event in self._sessions[name]:
            if event.HasField("chunk"):
                c = event.chunk
                source = pb.SOURCE_SLM if c.model == SLM else pb.SOURCE_LLM
                segments.append(
                    pb.Segment(
                        source=source,
                        position=c.position,
                        tokens=c.tokens,
                        entropies=c.entropies,
                        text=c.text,
                        details=c.details if details else (),
                    )
                )
        return pb.Trajectory(
            session_id=name,
            state=pb.TRAJECTORY_STATE_FINISHED,
            length=self.answer[-1].finished.length,
            epoch=1,
            segments=segments,
            policy=pb.Policy(threshold=pb.Threshold(tau=0.02)),
            finished=self.answer[-1].finished,
            label=self.labels.get(name, 0),  # type: ignore[arg-type]
            trace_id="ab" * 16,
        )


def _one(gathered: list[pb.GenerateResponse]) -> pb.GenerateResponse:
    """One message of what was gathered, which is none then."""
    first = pb.GenerateResponse()
    first.CopyFrom(gathered[0])
    first.more.extend(gathered[1:])
    gathered.clear()
    return first
