"""A client made from nothing but reflection calls Step and gets what transformers itself computes."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from transformers import AutoModelForCausalLM

from tests.worker.conftest import StartWorker

MODEL = Path(__file__).parents[2] / "models" / "tiny-slm"
PROMPT = [40, 41, 42, 43, 44, 45]


def call_step(address: str) -> Any:
    """What a stranger does, in any language: ask what there is, build the messages, call."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "rstitch.v1.WorkerService" in database.get_services()
        service = DescriptorPool(database).FindServiceByName("rstitch.v1.WorkerService")
        method = service.FindMethodByName("Step")
        request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        step = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        logits_full = service.file.enum_types_by_name["Logits"].values_by_name["LOGITS_FULL"].number
        request = request_class(session_id="stranger", tokens=PROMPT)
        request.returns.logits = logits_full
        request.returns.hidden_state = True
        return step(request, timeout=20)


async def test_step_by_reflection_equals_transformers(start_worker: StartWorker) -> None:
    worker, _ = await start_worker(model=str(MODEL), dtype="float32")
    response = await asyncio.get_running_loop().run_in_executor(None, call_step, f"127.0.0.1:{worker.port}")
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPT]), output_hidden_states=True)
    logits = expected.logits[0, -1]
    logprobs = logits.log_softmax(-1)
    entropy = float(-(logprobs.exp() * logprobs).sum()) / math.log(len(logits))
    np.testing.assert_allclose(np.frombuffer(response.logits, "<f4"), logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(
        np.frombuffer(response.hidden_state, "<f4"), expected.hidden_states[-1][0, -1].numpy(), atol=1e-4
    )
    assert math.isclose(response.entropy, entropy, abs_tol=1e-4)
    assert response.token == int(logits.argmax())
    assert math.isclose(response.logprob, float(logprobs[response.token]), abs_tol=1e-4)
    assert response.held == len(PROMPT)
