"""Bias, penalties and min_p on their way: refused by name, in each model's ids, kept for other routers."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest

from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.kinds import LlmOnly
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import Sampling
from rstitch.v1 import common_pb2, router_pb2
from tests.support.asking import ask_for, refused, take, threshold
from tests.support.toy import VOCAB_SIZE, make_tokenizer_files
from tests.support.toy_stack import Stack
from tests.support.unrelated import CLOSE, sentencepiece

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "min_p over 1": ({"min_p": 1.5}, "min_p"),
    "min_p that is none": ({"min_p": math.nan}, "min_p"),
    "a large presence penalty": ({"presence_penalty": 2.1}, "presence_penalty"),
    "a frequency penalty that is none": ({"frequency_penalty": math.nan}, "frequency_penalty"),
    "a repetition penalty below 0": ({"repetition_penalty": -1}, "repetition_penalty"),
    "a tiny repetition penalty": ({"repetition_penalty": 1e-308}, "repetition_penalty"),
    "a repetition penalty just under the least": ({"repetition_penalty": 0.0099}, "repetition_penalty"),
    "a repetition penalty just over the most": ({"repetition_penalty": 100.1}, "repetition_penalty"),
    "a repetition penalty that is none": ({"repetition_penalty": math.nan}, "repetition_penalty"),
    "a repetition penalty without end": ({"repetition_penalty": math.inf}, "repetition_penalty"),
    "a large bias": ({"logit_bias": {3: 101}}, "logit_bias[3]"),
    "a bias that is none": ({"logit_bias": {3: math.nan}}, "logit_bias[3]"),
    "a bias of no token": ({"logit_bias": {VOCAB_SIZE: 1}}, f"logit_bias[{VOCAB_SIZE}]"),
    "too many": ({"logit_bias": dict.fromkeys(range(5, 306), 1.0)}, "logit_bias"),
}
ALL = {"min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.5}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_is_refused_by_its_name(stack: Stack, case: str) -> None:
    fields, field = BAD[case]
    stub = await stack.stub(await stack.router())
    error = await refused(stub.Generate(ask_for(sampling=common_pb2.Sampling(**fields))))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, f"sampling.{field}")
    assert error.remedy
    assert not stack.slm.requests


async def test_workers_are_told_where_the_answer_begins(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    how = common_pb2.Sampling(**ALL, logit_bias={7: 2.5, 9: -100})
    await take(stub, ask_for([7, 8, 9], policy=threshold(0.4), sampling=how, max_new_tokens=30))
    how.penalized_from = 3
    told = [run.sampling for worker in (stack.slm, stack.llm) for run in worker.requests if run.max_tokens]
    assert told
    assert all(sampling == how for sampling in told)
    plain = len(stack.slm.requests)
    await take(stub, ask_for([7, 8, 9], policy=threshold(0.4), max_new_tokens=30))
    assert {run.sampling.ByteSize() for run in stack.slm.requests[plain:]} == {0}


@pytest.mark.parametrize("penalty", [0.01, 100.0])
async def test_the_bounds_of_a_repetition_penalty_are_taken(stack: Stack, penalty: float) -> None:
    stub = await stack.stub(await stack.router())
    how = common_pb2.Sampling(repetition_penalty=penalty)
    await take(stub, ask_for([7, 8, 9], policy=threshold(0.4), sampling=how, max_new_tokens=30))
    assert {run.sampling.repetition_penalty for run in stack.slm.requests if run.max_tokens} == {penalty}


async def test_a_bias_is_in_each_models_own_ids(stack: Stack) -> None:
    await stack.slm.stop()
    stack.slm.files = make_tokenizer_files(seed=5)
    of_slm, of_llm = Tokenizer(stack.slm.files), Tokenizer(stack.llm.files)
    stack.slm.stop_token = of_slm.token("<|end|>") or 0
    await stack.slm.start()
    stub = await stack.stub(await stack.router())
    bias = {of_llm.token("the") or 0: 1.5, 0: -100.0, of_llm.token("Q") or 0: 2.0}
    how = common_pb2.Sampling(logit_bias=bias)
    stream = stub.Generate(ask_for(text="What", policy=threshold(0.4), sampling=how, max_new_tokens=3))
    async for _ in stream:
        if any(run.max_tokens for run in stack.slm.requests):
            break
    stream.cancel()
    (told, *_) = [dict(run.sampling.logit_bias) for run in stack.slm.requests if run.max_tokens]
    assert told == {of_slm.token(of_llm.spelling(token) or ""): value for token, value in bias.items()}


async def test_models_without_ids_in_common_take_no_bias(stack: Stack) -> None:
    made = sentencepiece()
    stack.llm.files = type(stack.llm.files)(made.to_str().encode())
    stack.llm.vocab_size, stack.llm.stop_token = made.get_vocab_size(), made.token_to_id(CLOSE)
    stub = await stack.stub(await stack.router())
    error = await refused(stub.Generate(ask_for(text="What?", sampling=common_pb2.Sampling(logit_bias={5: 1}))))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "sampling.logit_bias")


def test_settings_that_ask_for_nothing_new_are_read_by_older_routers() -> None:
    def settings(sampling: Sampling) -> AnswerSettings:
        return AnswerSettings(LlmOnly(), sampling, 5, (), 3)

    plain, asked = Sampling(0.5, seed=3), Sampling(0.5, 0.9, 4, 3, 0.1, ((3, 1.5), (7, -2.0)), 0.5, -0.5, 1.5)
    for each in (plain, asked):
        assert AnswerSettings.from_json(settings(each).to_json()).sampling == each
    assert '"sampling":{"temperature":0.5,"top_p":0.0,"top_k":0,"seed":3}' in settings(plain).to_json()


def test_the_contract_has_all_of_it() -> None:
    assert set(Sampling.__slots__) <= set(common_pb2.Sampling.DESCRIPTOR.fields_by_name)
    assert router_pb2.GenerateRequest.DESCRIPTOR.fields_by_name["sampling"].message_type.name == "Sampling"
