"""The names that clients rely on are in the contract, with the types they rely on."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor

from rstitch.v1 import common_pb2, router_pb2, worker_pb2

NAMES = {
    common_pb2.Sampling: "temperature top_p top_k seed",
    worker_pb2.StepRequest: "session_id position tokens sampling returns",
    worker_pb2.Returns: "logits top_k hidden_state",
    worker_pb2.StepResponse: "token logprob entropy logits top_logits hidden_state held timing",
    worker_pb2.DecodeRequest: "session_id position tokens sampling max_tokens stop_tokens handoff",
    worker_pb2.Handoff: "above below hidden_state",
    worker_pb2.DecodeResponse: "tokens entropies logprobs finish",
    worker_pb2.Finish: "reason held proposal timing",
    worker_pb2.Proposal: "token entropy logprob hidden_state",
    router_pb2.GenerateRequest: (
        "session_id resume_from text chat tokens policy early_exit sampling max_new_tokens stop"
    ),
    router_pb2.Policy: "threshold learned confidence llm_only slm_only random speculative",
    router_pb2.Threshold: "tau tau_return signal window",
    router_pb2.GenerateResponse: "started chunk switch finished",
    router_pb2.Chunk: "model position tokens entropies text",
    router_pb2.Switch: "from to position entropy reason",
    router_pb2.Finished: "reason usage",
}
METHODS = {
    "WorkerService": "Step Decode CloseSession PutHead GetInfo GetTokenizer",
    "RouterService": (
        "Generate GetTrajectory ListTrajectories DeleteTrajectory PutProfile ListProfiles DeleteProfile GetStatus"
    ),
}


@pytest.mark.parametrize("message", NAMES, ids=lambda message: message.DESCRIPTOR.name)
def test_fields_have_their_names(message: type) -> None:
    descriptor: Descriptor = message.DESCRIPTOR  # type: ignore[attr-defined]
    assert set(NAMES[message].split()) <= set(descriptor.fields_by_name)


def test_methods_have_their_names() -> None:
    services = {
        **worker_pb2.DESCRIPTOR.services_by_name,
        **router_pb2.DESCRIPTOR.services_by_name,
    }
    for service, methods in METHODS.items():
        assert set(methods.split()) <= set(services[service].methods_by_name), service


@pytest.mark.parametrize("message", [worker_pb2.StepRequest, worker_pb2.DecodeRequest, router_pb2.TokenIds])
def test_token_ids_are_uint32(message: type) -> None:
    descriptor: Descriptor = message.DESCRIPTOR  # type: ignore[attr-defined]
    field = descriptor.fields_by_name.get("tokens") or descriptor.fields_by_name["ids"]
    assert field.type == field.TYPE_UINT32
