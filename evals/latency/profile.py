"""Calls of a running worker, timed over the wire: cells of a grid of tokens put in and tokens cached.

It drives `Decode` as the router does and believes the worker's own clock for the step; what the caller waits for beside
that is the wire's. It fits nothing.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import worker_pb2, worker_pb2_grpc

# Tokens; cut to what the context holds. One token put in is a decode step and has a formula of its own.
INPUTS = (2, 4, 8, 16, 32, 64, 128, 256)
CACHED = (0, 64, 128, 256, 512, 1024)
NUM_STEPS = 8  # of a run of decode steps


@dataclass(frozen=True, slots=True)
class TimedCall:
    """A run of one model, in milliseconds.

    Attributes:
        num_inputs: tokens put in by its first step; each step after it puts in one.
        num_cached: tokens cached before it.
        steps_ms: all steps, as the worker timed them: forward and the engine's own work.
        run_ms: from the request to the end, as the caller did.
    """

    num_inputs: int
    num_cached: int
    num_steps: int
    steps_ms: float
    run_ms: float

    @property
    def is_decode(self) -> bool:
        return self.num_inputs == 1

    @property
    def mean_cached(self) -> float:
        """Tokens cached before a step: each decode step finds one more than the one before."""
        return self.num_cached + (self.num_steps - 1) / 2 * self.is_decode

    @property
    def call_ms(self) -> float:
        """One decode step, or a whole prefill: a long one is cut into steps."""
        return self.steps_ms / self.num_steps if self.is_decode else self.steps_ms


class Prober:
    """A worker whose calls are timed: a session, with a warm stream, for each number of cached tokens."""

    def __init__(self, stub: Any, info: worker_pb2.GetInfoResponse, seed: int) -> None:
        self.info = info
        self._stub = stub
        self._streams: dict[int, Any] = {}
        self._sessions: dict[int, str] = {}
        self._random = random.Random(seed)

    @classmethod
    async def connect(cls, channel: grpc.aio.Channel, seed: int) -> Prober:
        """Asks who it is. Raises: RstitchError."""
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        try:
            return cls(stub, await stub.GetInfo(worker_pb2.GetInfoRequest(), timeout=10), seed)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    def grid(self, inputs: Sequence[int], cached: Sequence[int]) -> list[tuple[int, int]]:
        """The cells that fit the worker's context: (tokens put in, tokens cached); decode steps are those of 1."""
        room = self.info.context_length
        cells = [(num, held) for num in inputs for held in cached if num + held < room]
        return cells + [(1, held) for held in cached if held and held + NUM_STEPS < room]

    async def call(self, num_inputs: int, num_cached: int) -> TimedCall:
        """One run: `NUM_STEPS` of one token each, or one of many. The first of a cell also fills its cache."""
        fresh = num_cached not in self._streams
        if fresh:
            self._sessions[num_cached] = f"profile-{uuid.uuid4().hex}"
            self._streams[num_cached] = self._stub.Decode()
            if num_cached:
                await self._run(num_cached, 0, num_cached, 1)
        num_steps = NUM_STEPS if num_inputs == 1 else 1
        run_ms, timing = await self._run(num_cached, num_cached, num_inputs, num_steps)
        steps_ms = (timing.forward_us + timing.host_us) / 1000
        return TimedCall(num_inputs, num_cached, timing.num_steps, steps_ms, run_ms)

    async def close(self) -> None:
        for num_cached, stream in self._streams.items():
            stream.cancel()
            await self._stub.CloseSession(worker_pb2.CloseSessionRequest(session_id=self._sessions[num_cached]))

    async def _run(self, key: int, position: int, num: int, max_tokens: int) -> tuple[float, worker_pb2.Timing]:
        tokens = [self._random.randrange(self.info.vocab_size) for _ in range(num)]
        request = worker_pb2.DecodeRequest(
            session_id=self._sessions[key], position=position, tokens=tokens, max_tokens=max_tokens
        )
        begin = time.perf_counter()
        try:
            await self._streams[key].write(request)
            while not (reply := await self._streams[key].read()).HasField("finish"):
                pass
        except (grpc.aio.AioRpcError, AttributeError) as error:  # the end of a stream is no message
            code = await self._streams[key].code()
            details = await self._streams[key].details()
            raise RstitchError(code, "PROFILE_STOPPED", f"the worker ended a profiled call: {details}") from error
        return 1000 * (time.perf_counter() - begin), reply.finish.timing
