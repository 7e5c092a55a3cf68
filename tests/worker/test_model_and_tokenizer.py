"""Where a model and its tokenizer meet: what ends an answer, and which tokens both have."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
import torch

from model_worker import build
from model_worker.engine.forward.loader import adopt
from model_worker.main import start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.local.processes import free_port
from rstitch.v1 import common_pb2, worker_pb2_grpc
from rstitch.v1 import worker_pb2 as pb
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, STOP_TOKEN, VOCAB_SIZE, make_model, make_tokenizer
from tests.support.shared_layers import save_pair
from tests.support.worker_calls import decode_once, error_of
from tests.worker.conftest import StartWorker

PROMPT = [7, 8, 9, 10, 11]
USER, ASSISTANT = 2, 3


def edit(file: Path, **values: Any) -> None:
    """Changes fields of a JSON file; None takes one out."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def save(folder: Path, num_rows: int = 304) -> Path:
    """A model with so many rows in its embeddings and in its LM head; its tokenizer has VOCAB_SIZE tokens."""
    config = copy.deepcopy(CONFIGS["llama"])
    config.vocab_size = num_rows
    make_model(config, 0).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("config", "generation", "eos", "stops"),
    [
        ([ASSISTANT], 0, "<|user|>", [0, USER, ASSISTANT]),
        (None, [0, 5], "<|user|>", [0, USER, 5]),
        (ASSISTANT, None, None, [ASSISTANT]),
        (None, 0, None, [0]),
        ([0, 303, 5000], 301, "<|user|>", [0, USER]),
    ],
    ids=["all three differ", "the config names none", "the config alone", "generation alone", "beyond the vocabulary"],
)
async def test_stop_tokens_are_those_of_the_models_files_and_of_its_tokenizer(
    start_worker: StartWorker, tmp_path: Path, config: Any, generation: Any, eos: str | None, stops: list[int]
) -> None:
    folder = save(tmp_path / "model")
    edit(folder / "config.json", eos_token_id=config)
    edit(folder / "generation_config.json", eos_token_id=generation)
    edit(folder / "tokenizer_config.json", eos_token=eos)
    _, stub = await start_worker(model=str(folder))
    info = await stub.GetInfo(pb.GetInfoRequest())
    assert list(info.stop_tokens) == stops
    free = pb.DecodeRequest(session_id="free", tokens=PROMPT, max_tokens=400, stop_tokens=[VOCAB_SIZE - 1])
    tokens, _ = await decode_once(stub, free)
    tokens, finish = await decode_once(stub, pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=400))
    assert not set(tokens[:-1]) & set(stops)
    assert (finish.reason == pb.Finish.REASON_STOP) is (tokens[-1] in stops)


async def test_an_answer_ends_at_the_tokenizers_end(start_worker: StartWorker, tmp_path: Path) -> None:
    """The model's files name another; as in a chat model that was made from a base model."""
    folder = save(tmp_path / "model")
    _, stub = await start_worker(model=str(folder))
    free = pb.DecodeRequest(session_id="free", tokens=PROMPT, max_tokens=30, stop_tokens=[STOP_TOKEN])
    tokens, _ = await decode_once(stub, free)
    written = next(token for token in tokens if token not in tokens[:3])
    content = make_tokenizer().convert_ids_to_tokens(written)
    edit(folder / "tokenizer_config.json", eos_token=content)
    _, stub = await start_worker(model=str(folder))
    ended, finish = await decode_once(stub, pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=30))
    assert (ended, finish.reason) == (tokens[: tokens.index(written) + 1], pb.Finish.REASON_STOP)


async def test_an_attribute_of_the_configs_class_is_no_stop_token(start_worker: StartWorker, tmp_path: Path) -> None:
    """LlamaConfig has eos_token_id 2 where config.json names none."""
    folder = save(tmp_path / "model")
    edit(folder / "config.json", eos_token_id=None)
    _, stub = await start_worker(model=str(folder))
    assert list((await stub.GetInfo(pb.GetInfoRequest())).stop_tokens) == [STOP_TOKEN]


@pytest.mark.parametrize(("num_rows", "vocab_size"), [(299, 299), (250, 250), (300, 300), (304, 300)])
async def test_the_vocabulary_is_what_the_model_has_rows_for(
    start_worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rows: int, vocab_size: int
) -> None:
    folder = save(tmp_path / "model", num_rows)
    # The module's own may have been used, and with that bound to where it writes, by a test before.
    monkeypatch.setattr(build, "_log", structlog.get_logger())
    with structlog.testing.capture_logs() as logs:
        _, stub = await start_worker(model=str(folder))
    assert (await stub.GetInfo(pb.GetInfoRequest())).vocab_size == vocab_size
    told = [entry for entry in logs if "more tokens than the model has rows" in entry["event"]]
    assert [(entry["num_tokens"], entry["num_rows"]) for entry in told] == (
        [(VOCAB_SIZE, num_rows)] if num_rows < VOCAB_SIZE else []
    )
    for field in ("tokens", "masked_tokens"):
        error = await error_of(stub.Step(pb.StepRequest(**{"session_id": "s", "tokens": PROMPT, field: [vocab_size]})))
        assert (error.code.name, error.field) == ("INVALID_ARGUMENT", field)
        assert f"below {vocab_size}" in str(error.remedy)
    logits = (
        await stub.Step(
            pb.StepRequest(session_id="s", tokens=[vocab_size - 1], returns=pb.Returns(logits=pb.LOGITS_FULL))
        )
    ).logits
    assert len(logits) == 4 * vocab_size


def test_embeddings_of_fewer_rows_than_the_head() -> None:
    config = copy.deepcopy(CONFIGS["llama"])
    model = make_model(config, 0)
    rows = torch.nn.Embedding(290, config.hidden_size, dtype=torch.float64)
    model.set_input_embeddings(rows)
    loaded = adopt(model, CONTEXT_LENGTH)
    assert (loaded.num_logits, loaded.num_embeddings) == (304, 290)


async def test_a_masked_run_on_the_wire(start_worker: StartWorker, tmp_path: Path) -> None:
    _, stub = await start_worker()
    plain = pb.DecodeRequest(session_id="plain", tokens=PROMPT, max_tokens=12, stop_tokens=[VOCAB_SIZE - 1])
    tokens, _ = await decode_once(stub, plain)
    masked = pb.DecodeRequest(session_id="masked", tokens=PROMPT, max_tokens=12, masked_tokens=tokens)
    written, _ = await decode_once(stub, masked)
    assert not set(written) & set(tokens)
    step = pb.StepRequest(session_id="step", tokens=PROMPT, masked_tokens=tokens)
    assert (await stub.Step(step)).token == written[0]


async def test_shared_layers_tell_the_same_of_both_roles(tmp_path: Path) -> None:
    folder = save_pair(tmp_path / "model")
    edit(folder / "config.json", eos_token_id=[ASSISTANT])
    edit(folder / "tokenizer_config.json", eos_token="<|user|>", sep_token="<|system|>")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools!")
    llm, slm = (f"127.0.0.1:{free_port()}" for _ in range(2))
    settings = WorkerSettings(
        model=str(folder), listen=llm, shared_listen=slm, dtype="float64", threads=1, measure_ms=0
    )
    worker = await start(Role("llm", common_pb2.MODEL_LLM, WorkerSettings), settings, lambda error: None)
    for address in (llm, slm):
        async with grpc.aio.insecure_channel(address) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            assert list((await stub.GetInfo(pb.GetInfoRequest())).stop_tokens) == [STOP_TOKEN, USER, ASSISTANT]
            first = await anext(aiter(stub.GetTokenizer(pb.GetTokenizerRequest())))
            assert first.special_tokens["sep_token"] == "<|system|>"
            assert dict(first.named_templates) == {"tool_use": "tools!"}
    await worker.stop()
