"""A worker with quantized weights, on its wire: it says so, and writes what its model's own code writes."""

from __future__ import annotations

from pathlib import Path

import torch

from model_worker.engine.forward.loader import load
from rstitch.v1 import worker_pb2 as pb
from tests.support.engines import generate
from tests.worker.conftest import StartWorker

TINY = Path(__file__).parents[2] / "models" / "tiny-llm"
PROMPT = [5, 6, 7, 8]


async def test_a_quantized_worker_says_so_and_writes_as_its_model_does(start_worker: StartWorker) -> None:
    _, plain = await start_worker(model=str(TINY), dtype="bfloat16", measure_ms=0)
    _, stub = await start_worker(model=str(TINY), dtype="auto", quantize="int4", measure_ms=0)
    info = await stub.GetInfo(pb.GetInfoRequest())
    assert info.path.endswith("weights: int4, 42 of 43 matrices")
    assert info.dtype == "bfloat16", "auto: what the packed products are made for"
    assert info.num_parameters == (await plain.GetInfo(pb.GetInfoRequest())).num_parameters
    own = load(str(TINY), torch.bfloat16, torch.device("cpu"), quantized="int4")
    expected = generate(own.module, PROMPT, 12, own.num_logits)
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=12, stop_tokens=info.stop_tokens))
    await call.done_writing()
    tokens = [token async for response in call for token in response.tokens]
    assert tokens == expected
