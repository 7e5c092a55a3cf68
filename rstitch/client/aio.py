"""The asyncio client of a router. `rstitch.client.sync` is its blocking twin; what they do is in `messages` and
`reconnect`, here is only how to call and to wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self, Unpack

import grpc

from rstitch.client import common, messages, pages, requests
from rstitch.client.events import Answer, Event, Finished, Model, Observation
from rstitch.client.policies import KeptProfile
from rstitch.client.question import ChatInput, Question, TemplateArguments
from rstitch.client.reading import read
from rstitch.client.reconnect import Resumable, ended_early
from rstitch.client.status import Cancelled, Status, Tokenized, Trajectory, TrajectoryPage, WorkerDrain
from rstitch.credentials import Credentials
from rstitch.errors import DeadlineExceeded, RstitchError, Unavailable
from rstitch.v1 import router_pb2


class AsyncClient(common.Connection):
    """Asks a router, in asyncio programs. Make it inside the running loop; close it or use it with `async with`."""

    def _make_channel(self, credentials: Credentials) -> Any:
        return credentials.aio_channel(self.address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and every call on it. The router keeps what was written."""
        await self._channel.close()

    def generate(
        self, text: str | None = None, *, timeout_s: float | None = None, **question: Unpack[Question]
    ) -> AsyncIterator[Event]:
        """Asks, and yields the answer as it is written; see `Client.generate`."""
        return self._events(requests.generate_request(text, **question), timeout_s)

    async def answer(
        self, text: str | None = None, *, timeout_s: float | None = None, **question: Unpack[Question]
    ) -> Answer:
        """Asks as `generate` does, and waits for the whole answer."""
        return Answer.of([event async for event in self.generate(text, timeout_s=timeout_s, **question)])

    def attach(
        self, session_id: str, resume_from: int = 0, *, request_id: str = "", timeout_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Goes on with an answer from the token at `resume_from`; 0 means from its first.

        With a `request_id` it must be that question's; else: RstitchError (FAILED_PRECONDITION).
        """
        return self._events(requests.attach_request(session_id, resume_from, request_id), timeout_s)

    async def trajectory(self, session_id: str, *, consultations: bool = False, details: bool = False) -> Trajectory:
        """Fetches a trajectory whole, with what the head was asked and the tokens' details, if wanted and kept."""
        request = requests.trajectory_request(session_id, consultations, details)
        reply = await self._call("GetTrajectory", request)
        return messages.trajectory(reply.trajectory)

    async def trajectories(self, page_size: int = 0, *, labelled: bool = False) -> AsyncIterator[Trajectory]:
        """Yields all trajectories, or those with a label, without segments, newest first; they are fetched by pages."""
        token = ""
        while True:
            page = await self.trajectory_page(page_size, token, labelled=labelled)
            for trajectory in page.trajectories:
                yield trajectory
            token = page.next_page_token
            if not token:
                return

    async def trajectory_page(
        self, page_size: int = 0, page_token: str = "", *, labelled: bool = False
    ) -> TrajectoryPage:
        """Fetches one page of them: at most `page_size`, 0: 100; the first, or what follows the page before."""
        request = pages.page_request(page_size, page_token, labelled)
        return pages.trajectory_page(await self._call("ListTrajectories", request))

    async def label_trajectory(self, session_id: str, right: bool | None) -> None:
        """Says whether a session's last answer, which must be finished, was right; None takes that back."""
        await self._call("LabelTrajectory", requests.label_request(session_id, right))

    def observe_answer(
        self,
        *,
        tau: float,
        session_id: str = "",
        chat: ChatInput | None = None,
        text: str | None = None,
        timeout_s: float | None = None,
        **template: Unpack[TemplateArguments],
    ) -> AsyncIterator[Observation]:
        """Yields what the SLM would have thought along an answer; see `Client.observe_answer`."""
        request = requests.observe_request(tau, session_id=session_id, chat=chat, text=text, **template)
        return self._observations(request, timeout_s)

    async def tokenize(
        self,
        text: str | None = None,
        *,
        chat: ChatInput | None = None,
        model: Model = Model.LLM,
        **template: Unpack[TemplateArguments],
    ) -> Tokenized:
        """Makes the token ids of a text or a chat; see `Client.tokenize`."""
        request = requests.tokenize_request(text, chat, model, template)
        return read(Tokenized, await self._call("Tokenize", request))

    async def detokenize(self, tokens: Sequence[int], *, model: Model = Model.LLM) -> str:
        """Reads token ids of a model as text, special tokens spelled out."""
        reply = await self._call("Detokenize", requests.detokenize_request(tokens, model))
        text: str = reply.text
        return text

    async def cancel(self, session_id: str) -> Cancelled:
        """Ends the answer that is being written in a session; see `Client.cancel`."""
        request = router_pb2.CancelGenerationRequest(session_id=session_id)
        return messages.cancelled(await self._call("CancelGeneration", request))

    async def delete_trajectory(self, session_id: str) -> None:
        """Forgets a trajectory; stops it first if it is still being written."""
        await self._call("DeleteTrajectory", router_pb2.DeleteTrajectoryRequest(session_id=session_id))

    async def put_profile(self, profile: KeptProfile) -> KeptProfile:
        """Keeps a policy under a name, in place of one of that name; ask with `policy=Profile(name)`."""
        return messages.profile((await self._call("PutProfile", requests.put_profile_request(profile))).profile)

    async def profiles(self) -> list[KeptProfile]:
        """Lists the profiles that the router keeps, sorted by name."""
        reply = await self._call("ListProfiles", router_pb2.ListProfilesRequest())
        return [messages.profile(m) for m in reply.profiles]

    async def delete_profile(self, name: str) -> None:
        """Forgets a profile; answers that were begun with it are not touched."""
        await self._call("DeleteProfile", router_pb2.DeleteProfileRequest(name=name))

    async def store_head(
        self, name: str, data: bytes, *, active: bool = True, ttl_s: int = 0, description: str = ""
    ) -> str:
        """Keeps a head where all routers find it, and returns NAME@VERSION; ask with `policy=Learned(name)`.

        `data` is the content of a head's file. An `active` one is what its name stands for from the next answer on. It
        is forgotten after `ttl_s` seconds; 0: never.
        """
        request = requests.store_head_request(name, data, active, ttl_s, description)
        full_name: str = (await self._call("StoreHead", request)).full_name
        return full_name

    async def activate_head(self, name: str, version: str = "") -> str:
        """Lets a head's name stand for another version, "" for the one before, and returns NAME@VERSION."""
        request = router_pb2.ActivateHeadRequest(name=name, version=version)
        full_name: str = (await self._call("ActivateHead", request)).full_name
        return full_name

    async def delete_head(self, name: str) -> None:
        """Forgets NAME with all its versions, or NAME@VERSION, which must not be what NAME stands for."""
        await self._call("DeleteHead", router_pb2.DeleteHeadRequest(name=name))

    async def status(self, *, timeout_s: float | None = None) -> Status:
        return messages.status(await self._call("GetStatus", router_pb2.GetStatusRequest(), timeout_s))

    async def drain_worker(
        self, worker_id: str, *, undo: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[WorkerDrain]:
        """Asks a worker to get no new sessions, and yields how far it is; see `Client.drain_worker`."""
        request = router_pb2.DrainWorkerRequest(worker_id=worker_id, undo=undo)
        call = self._begin("DrainWorker", request, timeout_s)
        try:
            async for response in call:
                yield messages.worker_drain(response)
        except grpc.RpcError as error:
            raise self._explained(error) from None
        finally:
            call.cancel()

    async def wait_ready(self, timeout_s: float = 60.0) -> Status:
        """Waits until the router takes questions. Raises: DeadlineExceeded (NOT_READY) saying why not."""
        deadline = time.monotonic() + timeout_s
        last: Status | RstitchError | None = None
        while (left := deadline - time.monotonic()) > 0:
            try:
                last = await self.status(timeout_s=left)
                if last.ready:
                    return last
            except (Unavailable, DeadlineExceeded) as error:
                last = error
            await asyncio.sleep(min(common.POLL_S, max(0.0, deadline - time.monotonic())))
        raise common.not_ready(self.address, timeout_s, last)

    async def _call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        try:
            return await self._begin(method, request, timeout_s or self._timeout_s or common.DEFAULT_UNARY_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._explained(error) from None

    async def _observations(
        self, request: router_pb2.ObserveAnswerRequest, timeout_s: float | None
    ) -> AsyncIterator[Observation]:
        call = self._begin("ObserveAnswer", request, timeout_s or self._timeout_s)
        try:
            async for response in call:
                for observation in messages.observations(response):
                    yield observation
        except grpc.RpcError as error:
            raise self._explained(error) from None
        finally:
            call.cancel()

    async def _events(self, request: router_pb2.GenerateRequest, timeout_s: float | None) -> AsyncIterator[Event]:
        state = Resumable(request, reconnect_s=self._reconnect_s, timeout_s=timeout_s or self._timeout_s)
        while True:
            call = self._begin("Generate", state.request(), state.time_left_s())
            try:
                async for response in call:
                    for event in state.accept(response):
                        yield event
                        if isinstance(event, Finished):
                            return
                lost = ended_early()
            except grpc.RpcError as error:
                lost = self._explained(error)
            finally:
                call.cancel()
            await asyncio.sleep(state.wait_after(lost))
