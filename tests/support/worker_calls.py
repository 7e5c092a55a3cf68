"""Calls of a worker by the generated stubs: a run to its end, the error of a call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import worker_pb2 as pb


async def read_run(call: Any) -> tuple[list[int], pb.Finish]:
    """The rest of a run: its kept tokens and its finish."""
    tokens: list[int] = []
    while True:
        response = await call.read()
        assert response is not grpc.aio.EOF
        tokens += response.tokens
        assert len(response.tokens) == len(response.entropies) == len(response.logprobs)
        if response.HasField("finish"):
            return tokens, response.finish


async def error_of(awaitable: Any) -> RstitchError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return from_rpc_error(caught.value)


async def decode_once(stub: Any, request: pb.DecodeRequest) -> tuple[list[int], pb.Finish]:
    async def requests() -> AsyncIterator[pb.DecodeRequest]:
        yield request

    return await read_run(stub.Decode(requests()))
