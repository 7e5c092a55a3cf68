"""Heads on a worker's wire: none is refused by name, a lost one is asked for, one that is there decides."""

from __future__ import annotations

from typing import Any

import grpc

from rstitch.service.head import MAX_BYTES, Head
from rstitch.v1 import worker_pb2 as pb
from tests.support.heads import random_head
from tests.worker.conftest import StartWorker
from tests.worker.test_worker_wire import PROMPT, decode_once, error_of

HIDDEN_SIZE = 32
NUM_TOKENS = 30
STAY, LEAVE = random_head(HIDDEN_SIZE, bias=-1e6), random_head(HIDDEN_SIZE, bias=1e6)


def run(head: str, session_id: str = "s", above: float = -1.0, **fields: Any) -> pb.DecodeRequest:
    handoff = pb.Handoff(above=above, head=head)
    return pb.DecodeRequest(session_id=session_id, tokens=PROMPT, max_tokens=NUM_TOKENS, handoff=handoff, **fields)


async def put(stub: Any, name: str, head: Head) -> None:
    await stub.PutHead(pb.PutHeadRequest(name=name, data=head.data))


BAD = [
    ("", STAY.data, "INVALID_ARGUMENT", "INVALID_FIELD", "name"),
    ("x" * 129, STAY.data, "INVALID_ARGUMENT", "INVALID_FIELD", "name"),
    ("x", b"", "INVALID_ARGUMENT", "HEAD_UNREADABLE", "data"),
    ("x", STAY.data[:-1], "INVALID_ARGUMENT", "HEAD_UNREADABLE", "data"),
    ("x", bytes(MAX_BYTES + 1), "INVALID_ARGUMENT", "HEAD_UNREADABLE", "data"),
    ("x", random_head(HIDDEN_SIZE + 1).data, "FAILED_PRECONDITION", "HEAD_MISFIT", "data"),
    ("x", random_head(HIDDEN_SIZE, fingerprint="other").data, "FAILED_PRECONDITION", "HEAD_MISFIT", "data"),
]


async def test_what_is_no_head_is_refused(start_worker: StartWorker) -> None:
    _, stub = await start_worker()
    for name, data, code, reason, field in BAD:
        error = await error_of(stub.PutHead(pb.PutHeadRequest(name=name, data=data)))
        assert (error.code, error.reason, error.field) == (grpc.StatusCode[code], reason, field)
        assert error.message
        assert error.remedy
    assert (await error_of(decode_once(stub, run("x")))).reason == "HEAD_UNKNOWN"
    await put(stub, "x", STAY)
    await decode_once(stub, run("x"))


async def test_a_head_decides_above_the_bound_and_only_there(start_worker: StartWorker) -> None:
    _, stub = await start_worker()
    tokens, alone = await decode_once(stub, pb.DecodeRequest(session_id="a", tokens=PROMPT, max_tokens=NUM_TOKENS))
    assert (len(tokens), alone.num_consultations) == (NUM_TOKENS, 0)
    error = await error_of(decode_once(stub, run("x", "lost")))
    assert (error.code, error.reason, error.field) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "HEAD_UNKNOWN",
        "handoff.head",
    )
    assert error.metadata["head"] == "x"
    await put(stub, "x", STAY)
    kept, finish = await decode_once(stub, run("x", "lost"))
    assert (kept, finish.num_consultations, finish.reason) == (tokens, NUM_TOKENS, pb.Finish.REASON_LENGTH)
    await put(stub, "x", LEAVE)
    kept, finish = await decode_once(stub, run("x"))
    assert (kept, finish.num_consultations, finish.reason) == ([], 1, pb.Finish.REASON_HANDOFF)
    assert (finish.proposal.token, finish.held) == (tokens[0], len(PROMPT))
    kept, finish = await decode_once(stub, run("x", above=1.0))
    assert (kept, finish.num_consultations) == (tokens, 0)
    below = run("x")
    below.handoff.below = 0.5
    error = await error_of(decode_once(stub, below))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "handoff.head")


async def test_a_run_keeps_the_head_that_it_began_with(start_worker: StartWorker) -> None:
    _, stub = await start_worker(flush_ms=0)
    await put(stub, "x", STAY)
    call = stub.Decode()
    request = run("x")
    request.max_tokens = 100
    await call.write(request)
    num = len((await call.read()).tokens)
    await put(stub, "x", LEAVE)
    response = await call.read()
    while not response.HasField("finish"):
        num += len(response.tokens)
        response = await call.read()
    assert num + len(response.tokens) == 100
    assert response.finish.num_consultations == 100
    call.cancel()


async def test_what_is_not_asked_for_is_forgotten_first(start_worker: StartWorker) -> None:
    _, stub = await start_worker()
    for number in range(64):
        await put(stub, f"x{number}", STAY)
    await decode_once(stub, run("x0"))
    await put(stub, "one more", STAY)
    await decode_once(stub, run("x0"))
    assert (await error_of(decode_once(stub, run("x1")))).reason == "HEAD_UNKNOWN"
