"""What a worker refuses: by status, field and remedy, with nothing changed."""

from __future__ import annotations

import grpc
import pytest

from rstitch.v1 import common_pb2
from rstitch.v1 import worker_pb2 as pb
from tests.support.pairs import CONTEXT_LENGTH, VOCAB_SIZE
from tests.support.worker_calls import decode_once, error_of
from tests.worker.conftest import StartWorker

PROMPT = [7, 8, 9, 10, 11]
WINDOW = common_pb2.SIGNAL_ENTROPY_WINDOW
SAMPLING = common_pb2.Sampling
BAD_STEPS = {
    "no session id": (pb.StepRequest(tokens=PROMPT), "INVALID_ARGUMENT", "session_id"),
    "long session id": (pb.StepRequest(session_id="x" * 257, tokens=PROMPT), "INVALID_ARGUMENT", "session_id"),
    "no tokens": (pb.StepRequest(session_id="s"), "INVALID_ARGUMENT", "tokens"),
    "token outside the vocabulary": (pb.StepRequest(session_id="s", tokens=[VOCAB_SIZE]), "INVALID_ARGUMENT", "tokens"),
    "over the context": (pb.StepRequest(session_id="s", tokens=[5] * (CONTEXT_LENGTH + 1)), "OUT_OF_RANGE", "tokens"),
    "position beyond held": (pb.StepRequest(session_id="s", position=3, tokens=[1]), "FAILED_PRECONDITION", "position"),
    "prefix differs": (
        pb.StepRequest(session_id="held", position=2, tokens=[1], prefix_checksum=7),
        "FAILED_PRECONDITION",
        "prefix_checksum",
    ),
    "negative temperature": (
        pb.StepRequest(session_id="s", tokens=PROMPT, sampling=SAMPLING(temperature=-1)),
        "INVALID_ARGUMENT",
        "sampling.temperature",
    ),
    "NaN temperature": (
        pb.StepRequest(session_id="s", tokens=PROMPT, sampling=SAMPLING(temperature=float("nan"))),
        "INVALID_ARGUMENT",
        "sampling.temperature",
    ),
    "top_p over 1": (
        pb.StepRequest(session_id="s", tokens=PROMPT, sampling=SAMPLING(top_p=1.5)),
        "INVALID_ARGUMENT",
        "sampling.top_p",
    ),
    "a tiny repetition penalty": (
        pb.StepRequest(session_id="s", tokens=PROMPT, sampling=SAMPLING(repetition_penalty=1e-308)),
        "INVALID_ARGUMENT",
        "sampling.repetition_penalty",
    ),
    "a large repetition penalty": (
        pb.StepRequest(session_id="s", tokens=PROMPT, sampling=SAMPLING(repetition_penalty=100.1)),
        "INVALID_ARGUMENT",
        "sampling.repetition_penalty",
    ),
    "a masked token outside the vocabulary": (
        pb.StepRequest(session_id="s", tokens=PROMPT, masked_tokens=[5, VOCAB_SIZE]),
        "INVALID_ARGUMENT",
        "masked_tokens",
    ),
    "all tokens masked": (
        pb.StepRequest(session_id="s", tokens=PROMPT, masked_tokens=range(VOCAB_SIZE)),
        "INVALID_ARGUMENT",
        "masked_tokens",
    ),
    "too many masked tokens": (
        pb.StepRequest(session_id="s", tokens=PROMPT, masked_tokens=[5] * 8193),
        "INVALID_ARGUMENT",
        "masked_tokens",
    ),
    "an offset to before position 0": (
        pb.StepRequest(session_id="s", tokens=PROMPT, sampling=SAMPLING(temperature=1, position_offset=-6)),
        "INVALID_ARGUMENT",
        "sampling.position_offset",
    ),
    "top_k of no logits": (
        pb.StepRequest(session_id="s", tokens=PROMPT, returns=pb.Returns(logits=pb.LOGITS_TOP_K)),
        "INVALID_ARGUMENT",
        "returns.top_k",
    ),
}


@pytest.mark.parametrize("case", BAD_STEPS)
async def test_a_bad_step_names_its_field_and_changes_nothing(start_worker: StartWorker, case: str) -> None:
    _, stub = await start_worker(num_pages=64)
    await stub.Step(pb.StepRequest(session_id="held", tokens=PROMPT))
    request, code, field = BAD_STEPS[case]
    error = await error_of(stub.Step(request))
    assert (error.code.name, error.field) == (code, field)
    assert error.remedy
    assert error.message.endswith("."), "a sentence, that the remedy goes on from"
    info = await stub.GetInfo(pb.GetInfoRequest())
    assert info.capacity.num_sessions == 1
    assert (await stub.CloseSession(pb.CloseSessionRequest(session_id="held"))).held == len(PROMPT)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=1, handoff=pb.Handoff()), "handoff.rule"),
        (pb.DecodeRequest(session_id="s", tokens=PROMPT, handoff=pb.Handoff(above=float("nan"))), "handoff.above"),
        (pb.DecodeRequest(session_id="s", tokens=PROMPT, stop_tokens=[VOCAB_SIZE]), "stop_tokens"),
        *[
            (pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=1, handoff=handoff), field)
            for handoff, field in (
                (pb.Handoff(above=0.5, signal=17), "handoff.signal"),
                (pb.Handoff(above=0.5, window=3), "handoff.window"),
                (pb.Handoff(above=0.5, recent_entropies=[0.5]), "handoff.recent_entropies"),
                (pb.Handoff(above=0.5, signal=WINDOW), "handoff.window"),
                (pb.Handoff(above=0.5, signal=WINDOW, window=65), "handoff.window"),
                (
                    pb.Handoff(above=0.5, signal=WINDOW, window=2, recent_entropies=[0.1, 0.2]),
                    "handoff.recent_entropies",
                ),
                (
                    pb.Handoff(above=0.5, signal=WINDOW, window=2, recent_entropies=[float("nan")]),
                    "handoff.recent_entropies",
                ),
            )
        ],
        (pb.DecodeRequest(session_id="s", tokens=PROMPT, draft=[3]), "max_tokens"),
        (pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=1, top_logprobs=21), "top_logprobs"),
        (pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=1, draft=[VOCAB_SIZE]), "draft"),
        (pb.DecodeRequest(session_id="s", tokens=PROMPT, masked_tokens=[VOCAB_SIZE]), "masked_tokens"),
        (
            pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=1, draft=[3], handoff=pb.Handoff(above=0.5)),
            "handoff",
        ),
    ],
)
async def test_a_bad_run_names_its_field(start_worker: StartWorker, request_: pb.DecodeRequest, field: str) -> None:
    _, stub = await start_worker()
    error = await error_of(decode_once(stub, request_))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
