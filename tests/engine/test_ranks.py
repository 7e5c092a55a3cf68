"""A divided model writes what the whole one writes: each rank a thread, sums in float64."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.llama import LlamaConfig
from transformers.models.olmo2 import Olmo2Config
from transformers.models.phi3 import Phi3Config
from transformers.models.starcoder2 import Starcoder2Config

from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.errors import HeldTooShort, NoCapacity, RanksLost, UnsupportedModel
from model_worker.engine.forward import attention_varlen
from model_worker.engine.ranks import dividing
from model_worker.engine.ranks.plan import bounds
from model_worker.engine.ranks.telling import Copy, Step, Wipe, packed, unpacked
from model_worker.engine.types import ForkRequest, Returns, RunRequest, Sampling
from tests.support.engines import Result, collect, failing_forward, make_engine_of, run_all, run_one
from tests.support.pairs import CONFIGS, STOP_TOKEN, VOCAB_SIZE, make_model
from tests.support.ranks import ranked_engine
from tests.support.varlen import naive_varlen_attn

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130]]
SAMPLED = Sampling(1.2, 0.9, 50, seed=5)
_SIZES: dict[str, Any] = {
    "vocab_size": 304,
    "hidden_size": 48,
    "intermediate_size": 80,  # which three do not divide
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
    "eos_token_id": STOP_TOKEN,
    "bos_token_id": None,
    "pad_token_id": 1,
}
THREE = LlamaConfig(**_SIZES, tie_word_embeddings=True)
OTHERS = {
    "phi3": Phi3Config(**_SIZES),  # fused projections, gathered
    "olmo2": Olmo2Config(**_SIZES),  # norms over all heads
    "starcoder2": Starcoder2Config(**_SIZES),  # biases that are added once
}


def requests(num_tokens: int = 25) -> list[RunRequest]:
    """Greedy and sampled answers, drafts and catch-up, in one batch."""
    runs = [RunRequest(f"g{i}", 0, prompt, max_tokens=num_tokens) for i, prompt in enumerate(PROMPTS)]
    runs += [RunRequest(f"s{i}", 0, prompt, SAMPLED, max_tokens=num_tokens) for i, prompt in enumerate(PROMPTS)]
    runs += [RunRequest("d", 0, PROMPTS[0], max_tokens=num_tokens, draft=[5, 6, 7]), RunRequest("c", 0, PROMPTS[3])]
    return runs


def outcomes(results: list[Result]) -> list[tuple[list[int], Any]]:
    assert all(result.error is None for result in results)
    return [(result.tokens, result.finished.reason if result.finished else None) for result in results]


@pytest.mark.parametrize(
    ("config", "size", "limits"),
    [
        *((CONFIGS[name], 2, {}) for name in ("llama", "qwen2", "qwen3", "gemma2", "gpt_neox")),
        *((config, 3, {}) for config in OTHERS.values()),
        (CONFIGS["gpt_neox"], 4, {"attention": "in-place"}),
        (THREE, 3, {"attention": "gather", "prefix_cache": "share"}),
        (THREE, 3, {"attention": "in-place", "prefix_cache": "copy"}),
        (THREE, 3, {"attention": "varlen", "graphs": "on"}),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else str(value),
)
def test_the_same_tokens_as_undivided(
    config: Any, size: int, limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    model = make_model(config, 0)
    alone = make_engine_of(copy.deepcopy(model), **limits)
    expected = outcomes(run_all(alone, requests()))
    with ranked_engine(model, size, **limits) as engine:
        assert engine.num_cards == size
        assert f"tp: {size}" in engine.path
        assert outcomes(run_all(engine, requests())) == expected
        fork = ForkRequest("g3", "f", len(PROMPTS[3]) + 3)
        assert engine.fork_session(fork) == alone.fork_session(fork)
        more = RunRequest("f", fork.position, [9, 9], SAMPLED, max_tokens=20)
        assert outcomes(run_all(engine, [more])) == outcomes(run_all(alone, [more]))


def test_each_rank_keeps_its_heads_only() -> None:
    with ranked_engine(make_model(THREE, 0), 3) as engine:
        cache = engine._runner._cache
        assert {shape.num_kv_heads for shape in cache.shapes} == {1}


def test_the_same_tokens_under_eviction() -> None:
    """A pool for three sessions and ten of them, whose tokens are sent again as far as they are no longer held."""
    model, rng = make_model(THREE, 0), random.Random(3)
    alone = make_engine_of(copy.deepcopy(model))
    prompts = {f"s{i}": [10 + i, 11, 12, 200 - i] for i in range(10)}
    expected = {name: run_one(alone, RunRequest(name, 0, p, max_tokens=24)).tokens for name, p in prompts.items()}
    with ranked_engine(model, 3, num_pages=16, page_size=4, max_batch_tokens=24, attention="in-place") as engine:
        written: dict[str, list[int]] = {name: [] for name in prompts}
        while unfinished := [name for name in prompts if len(written[name]) < 24]:
            name = rng.choice(unfinished)
            tokens = [*prompts[name], *written[name]]
            request = RunRequest(name, len(tokens) - 1, tokens[-1:], max_tokens=min(6, 24 - len(written[name])))
            try:
                result = run_one(engine, request)
            except HeldTooShort:
                result = run_one(engine, RunRequest(name, 0, tokens, max_tokens=request.max_tokens))
            except NoCapacity:
                continue
            written[name] += result.tokens
        assert written == expected
        assert engine.counters.num_evictions > 0


def test_logits_of_float32() -> None:
    model = make_model(THREE, 0).float()
    with torch.inference_mode():
        own = model(torch.tensor([PROMPTS[3]])).logits[0, -1, :VOCAB_SIZE]
    with ranked_engine(model, 3) as engine:
        proposal = run_one(engine, RunRequest("s", 0, PROMPTS[3], returns=Returns(-1))).finished.proposal
    ours = torch.frombuffer(bytearray(proposal.logits), dtype=torch.float32)
    torch.testing.assert_close(ours, own, atol=1e-4, rtol=0)


def test_a_step_is_told_once() -> None:
    with ranked_engine(make_model(THREE, 0), 3) as engine:
        meeting = engine._ranks._meeting
        run_all(engine, [RunRequest("s", 0, PROMPTS[1], max_tokens=8)])
        del meeting.all_told[:]
        steps = engine.counters.num_steps
        run_all(engine, requests())
        assert len(meeting.all_told) == engine.counters.num_steps - steps


@pytest.mark.parametrize("attention", ["native", "in-place"])
def test_what_another_rank_finds_not_finite(attention: str) -> None:
    """Values of one token that are infinite in the last rank's part of the last layer: catch-up shows them nowhere."""
    broken, model = 299, make_model(THREE, 0)
    expected = run_one(make_engine_of(copy.deepcopy(model)), RunRequest("a", 0, PROMPTS[0], max_tokens=20)).tokens

    def overflow(rank: int, module: Any) -> None:
        if rank < 2:
            return
        seen: list[torch.Tensor] = []
        embeddings, values = module.get_input_embeddings(), module.model.layers[-1].self_attn.v_proj
        embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        values.register_forward_hook(lambda _, inputs, out: out.masked_fill((seen[-1] == broken)[..., None], torch.inf))

    with ranked_engine(model, 3, overflow, attention=attention, max_batch_tokens=16) as engine:
        results = {engine.submit(RunRequest("a", 0, PROMPTS[0], max_tokens=20)): Result()}
        for number in range(6):
            results[engine.submit(RunRequest(f"c{number}", 0, [20, broken, 21]))] = Result()
            collect(engine, results)
        while not engine.is_idle:
            collect(engine, results)
        first, *others = results.values()
        assert first.tokens == expected
        assert all(result.finished.held == 3 for result in others), "catch-up leaves its tokens held"
        engine._clean()
        assert any(isinstance(told, Wipe) for told in map(unpacked, engine._ranks._meeting.all_told))
        engine.check_integrity()


def test_a_step_that_fails_at_rank_0_is_the_end() -> None:
    """The other ranks wait for sums that will not come: nothing can be computed with them any more."""
    with ranked_engine(make_model(THREE, 0), 3) as engine:
        module = engine._runner._loaded.module
        engine.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=5))
        with failing_forward(module, ValueError("no")), pytest.raises(RanksLost, match="ValueError: no"):
            engine.step()


def test_a_rank_that_is_gone_is_the_end() -> None:
    with ranked_engine(make_model(THREE, 0), 3) as engine:
        engine.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=5))
        engine._ranks._meeting.abort()
        with pytest.raises(RanksLost):
            engine.step()


def test_parts_that_are_not_the_whole_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own code runs on such parts, so that its logits and the engine's are alike, and wrong."""

    def overlapping(num: int, rank: int, size: int) -> tuple[int, int]:
        return (24 * rank, 24 * rank + 32) if num == 80 else bounds(num, rank, size)

    monkeypatch.setattr(dividing, "bounds", overlapping)
    with pytest.raises(UnsupportedModel, match=r"logits of its 3 parts differ"), ranked_engine(make_model(THREE, 0), 3):
        pass


def test_what_is_told_comes_through() -> None:
    sessions = [Session("a", pages=[4, 5, 6]), Session("b", pages=[9, 2], contiguous=False)]
    sessions[0].tokens.extend(range(100, 140))
    sessions[1].tokens.extend(range(7))
    rows = [
        Row(Run(1, RunRequest("a", 0, (), max_tokens=1), sessions[0], draft=[1, 2]), 33, 7, is_last=True),
        Row(Run(2, RunRequest("b", 0, ()), sessions[1]), 0, 5, is_last=False),
    ]
    told = unpacked(packed(Step(rows, captured=True)))
    assert isinstance(told, Step)
    assert told.captured is True
    for row, given in zip(told.rows, rows, strict=True):
        assert (row.start, row.num_tokens, row.num_asked) == (given.start, given.num_tokens, given.num_asked)
        own, session = given.run.session, row.run.session
        assert (session.pages, session.contiguous) == (own.pages, own.contiguous)
        end = row.start + row.num_tokens
        assert session.tokens[row.start : end] == own.tokens[row.start : end]
    assert unpacked(packed(Wipe([3, 1]))) == Wipe([3, 1])
    assert unpacked(packed(Copy({7: 1, 2: 0}))) == Copy({7: 1, 2: 0})
    assert packed(Wipe([])).dtype == np.int32
