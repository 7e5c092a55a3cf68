"""Layers that keep states from token to token: tokens are transformers' own, wherever a session goes back to."""

from __future__ import annotations

import copy
import functools
import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from model_worker.engine.bookkeeping.states import LEAST_STATES
from model_worker.engine.engine import Engine
from model_worker.engine.errors import ForwardFailed, NoCapacity, UnsupportedModel
from model_worker.engine.forward.loader import adopt, load
from model_worker.engine.forward.memory import (
    has_states,
    kv_bytes_per_token,
    pages_that_fit,
    states_beside,
    states_that_fit,
    tokens_beside,
)
from model_worker.engine.forward.state_plan import SHORT
from model_worker.engine.measure import measure_steps
from model_worker.engine.observing import Observe
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.types import ForkRequest, Returns, RunRequest
from tests.support.engines import Result, collect, make_engine_of, run_all, run_one
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, VOCAB_SIZE, make_model, save_model
from tests.support.recurrent import RECURRENT

PROMPTS = [[7, 8, 9], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130] * 5, list(range(40, 40 + SHORT))]
NUM_TOKENS = 24
NO_STOP = frozenset([VOCAB_SIZE])
# Of each kind of state: the delta rule's, Mamba's beside attention in one layer, convolutions alone, and one that
# cannot go on from a state with several tokens at once.
KINDS = ["qwen3_5", "falcon_h1", "lfm2", "jamba"]


@functools.cache
def model_of(family: str) -> Any:
    return make_model(RECURRENT[family], 0)


def engine_of(family: str, **limits: Any) -> Engine:
    return make_engine_of(copy.deepcopy(model_of(family)), **limits)


@functools.cache
def written(family: str, prompt: tuple[int, ...], num_tokens: int = NUM_TOKENS) -> list[int]:
    """transformers' own greedy `generate`, past any stop token."""
    out_of_reach = list(range(VOCAB_SIZE, model_of(family).config.vocab_size))
    ids = torch.tensor([prompt])
    output = model_of(family).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=num_tokens,
        suppress_tokens=out_of_reach,
        eos_token_id=out_of_reach[0],
    )
    return output[0, len(prompt) :].tolist()


def decode(session_id: str, position: int, tokens: list[int], max_tokens: int = NUM_TOKENS, **more: Any) -> RunRequest:
    return RunRequest(session_id, position, tokens, max_tokens=max_tokens, stop_tokens=NO_STOP, **more)


@pytest.mark.parametrize("family", RECURRENT)
def test_a_mixed_batch_with_chunked_prompts_equals_generate(family: str) -> None:
    engine = engine_of(family, max_batch_tokens=24)
    requests = [decode(f"s{i}", 0, prompt) for i, prompt in enumerate(PROMPTS)]
    for prompt, result in zip(PROMPTS, run_all(engine, requests), strict=True):
        assert result.tokens == written(family, tuple(prompt))


@pytest.mark.parametrize("family", KINDS)
def test_a_session_goes_back_anywhere_and_computes_little_again(family: str) -> None:
    engine = engine_of(family, page_size=4)
    prompt = PROMPTS[3]
    own = written(family, tuple(prompt))
    assert run_one(engine, decode("s", 0, prompt)).tokens == own
    end = len(prompt) + NUM_TOKENS
    all_tokens = [*prompt, *own]
    # From where, and how many tokens may be computed: those asked for and sent, and those from a state before them.
    for position, most in ((end, 1), (end - 3, NUM_TOKENS), (len(prompt), 1), (len(prompt) - 1, 70), (4, 70)):
        run_one(engine, decode("s", position, [99, 98, 97], 2))
        sent = all_tokens[position:end]
        again = run_one(engine, decode("s", position, sent, 3))
        assert again.tokens == written(family, tuple(all_tokens), 3)
        assert again.finished.timing.num_computed_tokens <= len(sent) + 3 + most


def test_windows_that_give_pages_back_and_states_go_back_together() -> None:
    engine = engine_of("lfm3", page_size=4, num_window_pages=60, max_batch_tokens=24)
    prompt = PROMPTS[3]
    all_tokens = [*prompt, *written("lfm3", tuple(prompt))]
    assert run_one(engine, decode("s", 0, prompt)).tokens == all_tokens[len(prompt) :]
    for position in (len(all_tokens) - 1, len(all_tokens) - 6, len(prompt), 30, 2):
        run_one(engine, decode("s", position, [99, 98, 97], 2))
        again = run_one(engine, decode("s", position, all_tokens[position:], 3))
        assert again.tokens == written("lfm3", tuple(all_tokens), 3)


@pytest.mark.parametrize("attention", ["in-place", "gather"])
def test_any_attention_does_beside_layers_with_states(attention: str) -> None:
    engine = engine_of("falcon_h1", attention=attention, max_batch_tokens=24)
    for prompt, result in zip(PROMPTS, run_all(engine, [decode(str(p), 0, p, 9) for p in PROMPTS]), strict=True):
        assert result.tokens == written("falcon_h1", tuple(prompt))[:9]


@pytest.mark.parametrize("family", KINDS)
def test_what_is_asked_for_again_costs_a_token(family: str) -> None:
    engine = engine_of(family)
    prompt = PROMPTS[1]
    own = written(family, tuple(prompt))
    run_one(engine, RunRequest("s", 0, prompt))  # catch-up
    for _ in range(2):
        step = run_one(engine, RunRequest("s", len(prompt), [], returns=Returns()))
        assert step.finished.proposal.token == own[0]
        assert step.finished.timing.num_computed_tokens == 1
    assert run_one(engine, decode("s", len(prompt), [], 5)).tokens == own[:5]
    run_one(engine, decode("s", len(prompt) + 5, [], 9, background=True))  # run-ahead, in vain
    other = run_one(engine, decode("s", len(prompt) + 5, [77], 4))
    assert other.tokens == written(family, (*prompt, *own[:5], 77), 4)
    assert other.finished.timing.num_computed_tokens <= 6


@pytest.mark.parametrize("family", KINDS)
def test_drafts_right_wrong_and_right_up_to_a_point(family: str) -> None:
    rng = random.Random(5)
    engine = engine_of(family, num_pages=200, page_size=4, max_batch_tokens=40)
    truths = {f"s{i}": [*prompt, *written(family, tuple(prompt))] for i, prompt in enumerate(PROMPTS)}
    tokens = {f"s{i}": list(prompt) for i, prompt in enumerate(PROMPTS)}
    held = dict.fromkeys(truths, 0)
    while pending := [name for name, truth in truths.items() if len(tokens[name]) < len(truth)]:
        requests = []
        for name in pending:
            rest = truths[name][len(tokens[name]) :]
            right = rng.randint(0, min(12, len(rest)))
            wrong = [(token + 1) % VOCAB_SIZE for token in rest[right : right + rng.choice([0, 1, 4])]]
            draft = [*rest[:right], *wrong]
            requests.append(decode(name, held[name], tokens[name][held[name] :], len(rest), draft=draft))
        for name, request, result in zip(pending, requests, run_all(engine, requests), strict=True):
            assert result.tokens == truths[name][len(tokens[name]) :][: len(result.tokens)]
            if held[name]:
                assert result.finished.timing.num_computed_tokens <= 2 * len(request.draft) + 20
            tokens[name] += result.tokens
            held[name] = result.finished.held


@pytest.mark.parametrize("family", ["qwen3_5", "falcon_h1"])
def test_sessions_without_a_state_left_are_evicted_or_refused(family: str) -> None:
    engine = engine_of(family, num_states=LEAST_STATES)
    for i, prompt in enumerate(PROMPTS):
        assert run_one(engine, decode(f"s{i}", 0, prompt, 6)).tokens == written(family, tuple(prompt))[:6]
    assert engine.counters.num_evictions > 0
    results = run_all(engine, [decode(f"t{i}", 0, prompt) for i, prompt in enumerate(PROMPTS)])
    refused = [result for result in results if result.error is not None]
    assert refused
    assert all(isinstance(result.error, NoCapacity) and "--num-states" in result.error.remedy for result in refused)
    for prompt, result in zip(PROMPTS, results, strict=True):
        assert result.error or result.tokens == written(family, tuple(prompt))


@pytest.mark.parametrize("family", KINDS)
def test_forks_go_on_as_their_source_does(family: str) -> None:
    engine = engine_of(family, num_states=24)
    prompt = PROMPTS[1]
    own = written(family, tuple(prompt))
    run_one(engine, decode("s", 0, prompt, 10))
    for number, position in enumerate((len(prompt) + 10, len(prompt) + 9, len(prompt), len(prompt) - 3, 1)):
        name = f"f{number}"
        held, computed = engine.fork_session(ForkRequest("s", name, position))
        assert held == position >= computed
        assert number > 2 or position - computed <= 1, "a state is near"
        rest = [*prompt, *own][position : len(prompt) + 10]
        assert run_one(engine, decode(name, position, rest, 5)).tokens == own[10:15]
        assert run_one(engine, decode("s", len(prompt) + 10, [], 5)).tokens == own[10:15]
        run_one(engine, RunRequest("s", len(prompt) + 10, []))
    engine.close_session("s")
    assert run_one(engine, decode("f2", len(prompt) + 15, [], 4)).tokens == own[15:19]
    engine.check_integrity()


def test_random_requests_beside_each_other_are_answered_as_alone() -> None:
    """Runs that are cancelled, superseded, rolled back, closed and forked, with states and pages for few sessions."""
    rng = random.Random(7)
    family = "qwen3_5"
    engine = engine_of(family, num_pages=60, page_size=4, max_batch_tokens=20, num_states=10, context_length=128)
    truth = [5, 6, 7, *written(family, (5, 6, 7), 90)]
    results: dict[int, Result] = {}
    expected: dict[int, int] = {}  # by run: where it begins to write
    for _ in range(250):
        name = f"s{rng.randrange(6)}"
        session = engine._table.get(name)
        if session is None or not session.running:
            held = 0 if session is None else session.held
            position = min(70, rng.choice([held, rng.randint(0, held)]))
            if rng.random() < 0.1:
                engine.close_session(name)
                position = 0
            end = min(80, max(3, position + rng.choice([0, 0, 1, 2, 20])))
            draft = truth[end : end + rng.randint(0, 6)] if rng.random() < 0.3 else []
            if draft and rng.random() < 0.6:
                draft[-1] = (draft[-1] + 1) % VOCAB_SIZE
            count = 0 if rng.random() < 0.2 else rng.randint(len(draft), 10)
            request = decode(name, position, truth[position:end], count, draft=draft if count else [])
            run_id = engine.submit(request)
            results[run_id], expected[run_id] = Result(), end
        elif rng.random() < 0.1:
            run = engine._scheduler.run_of(session)
            assert run is not None
            (engine.cancel if rng.random() < 0.5 else engine.supersede)(run.run_id)
        elif rng.random() < 0.1 and session.held > 12:
            engine.fork_session(ForkRequest(name, f"fork of {name}", rng.randint(1, session.held - 10)))
        collect(engine, results)
        engine.check_integrity()
    while not engine.is_idle:
        collect(engine, results)
    engine.check_integrity()
    for run_id, result in results.items():
        end = expected[run_id]
        assert result.tokens == truth[end : end + len(result.tokens)]
        assert result.error is None or isinstance(result.error, NoCapacity)
    assert sum(len(result.tokens) for result in results.values()) > 200
    assert engine.counters.num_evictions > 0


def test_what_the_model_would_have_written_is_observed() -> None:
    family = "qwen3_next"
    engine = engine_of(family, max_batch_tokens=16)
    given = [*PROMPTS[4], *PROMPTS[0]]
    logits = model_of(family)(torch.tensor([given])).logits[0, :, :VOCAB_SIZE]
    for start in (1, 7):
        result = run_one(engine, RunRequest("s", 0, given, observe=Observe(start, -1.0)))
        assert [token for each in result.observed for token in each.tokens] == logits.argmax(1)[start - 1 :].tolist()


@pytest.mark.parametrize("family", KINDS)
def test_what_is_not_finite_stays_in_its_session(family: str) -> None:
    broken = 299
    own = copy.deepcopy(model_of(family))
    with torch.no_grad():
        own.get_input_embeddings().weight[broken] = float("nan")
    engine = make_engine_of(own, max_batch_tokens=16, page_size=4)
    prompts = [[20, 21, 22] * 9, [5, 250, 17, 130] * 5]
    requests = [decode(f"s{i}", 0, prompt, 12) for i, prompt in enumerate(prompts)]
    bad = [*range(30, 70), broken, *range(70, 90)]
    caught_up, asked, *results = run_all(engine, [RunRequest("c", 0, bad), decode("b", 0, bad, 5), *requests])
    assert [result.tokens for result in results] == [written(family, tuple(prompt))[:12] for prompt in prompts]
    assert caught_up.finished.held == len(bad)
    assert isinstance(asked.error, ForwardFailed)
    # Where it is taken back all is well again, in both sessions.
    for name in ("b", "c"):
        good = run_one(engine, decode(name, 20, [*bad[20:40], 7], 6))
        assert good.tokens == written(family, (*bad[:40], 7), 6)


@pytest.mark.parametrize(
    "limits", [{"graphs": "on"}, {"compile": "on"}, {"batch_invariant": True}, {"prefix_cache": "share"}]
)
def test_what_is_not_for_states_is_refused_by_name(limits: dict[str, Any]) -> None:
    flag = f"--{next(iter(limits)).replace('_', '-')}"
    with pytest.raises(UnsupportedModel, match=f"Qwen3_5ForCausalLM: {flag}"):
        engine_of("qwen3_5", **limits)
    with pytest.raises(UnsupportedModel, match="--num-states"):
        engine_of("qwen3_5", num_states=LEAST_STATES - 1)


def test_states_go_with_their_engine_and_model_at_once() -> None:
    model = copy.deepcopy(model_of("lfm2"))
    engine = make_engine_of(model)
    run_one(engine, decode("s", 0, [5, 6, 7], 3))
    states = engine._runner._states
    assert states is not None
    module, store = weakref.ref(model), weakref.ref(states)
    gc.collect()
    gc.disable()
    try:
        del engine, model, states
        assert (module(), store()) == (None, None)
    finally:
        gc.enable()


def test_shared_layers_are_refused_by_name() -> None:
    engine = engine_of("lfm2")
    loaded = adopt(copy.deepcopy(model_of("lfm2")), CONTEXT_LENGTH)
    shared: Any = None  # it is not looked at
    with pytest.raises(UnsupportedModel, match=r"Lfm2ForCausalLM: .*--shared-listen"):
        SharedEngine(loaded, shared, engine.limits)
    assert "as layers keep states" in engine.path


@pytest.mark.parametrize("family", RECURRENT)
def test_what_a_layer_keeps_is_found(family: str) -> None:
    loaded = adopt(copy.deepcopy(model_of(family)), CONTEXT_LENGTH)
    kinds = loaded.module.config.layer_types
    assert [shape.num_kv_heads > 0 for shape in loaded.shapes] == [
        "attention" in k.replace("linear_attention", "") or k == "hybrid" for k in kinds
    ]
    keeping = [number for number, kind in enumerate(kinds) if kind in ("linear_attention", "conv", "hybrid")]
    assert [layer.layer for layer in loaded.states] == keeping
    assert all(layer.continues for layer in loaded.states) == (family != "jamba")
    found = {state.kind for layer in loaded.states for state in layer.states}
    assert found == ({"conv_states"} if family.startswith("lfm") else {"conv_states", "recurrent_states"})
    assert loaded.state_bytes > 0
    assert has_states(loaded.module.config)
    assert kv_bytes_per_token(loaded.module.config, loaded.dtype) == loaded.kv_bytes_per_token or family == "kimi"


def test_memory_is_divided_between_pages_and_states() -> None:
    loaded = adopt(copy.deepcopy(model_of("qwen3_5")), CONTEXT_LENGTH)
    room = 100 * loaded.state_bytes
    assert states_that_fit(loaded, cpu_bytes=room) == 25
    num_pages = pages_that_fit(loaded, 16, num_states=25, cpu_bytes=room)
    assert num_pages == 75 * loaded.state_bytes // (16 * loaded.kv_bytes_per_token)
    with pytest.raises(UnsupportedModel, match="--num-states"):
        states_that_fit(loaded, cpu_bytes=3 * LEAST_STATES * loaded.state_bytes)
    assert states_that_fit(adopt(make_model(CONFIGS["llama"], 0)), cpu_bytes=room) == 0


def test_pages_without_keys_and_values_take_no_memory() -> None:
    loaded = adopt(copy.deepcopy(model_of("mamba2")), CONTEXT_LENGTH)
    assert loaded.kv_bytes_per_token == 0
    assert pages_that_fit(loaded, 16, num_states=8) * 16 >= 2 * CONTEXT_LENGTH


def test_beside_another_model_both_find_the_same_room(tmp_path: Path) -> None:
    folders = {}
    for family, model in (("qwen3_5", model_of("qwen3_5")), ("lfm2", model_of("lfm2"))):
        model.save_pretrained(tmp_path / family)
        folders[family] = str(tmp_path / family)
    folders["llama"] = str(save_model(tmp_path / "llama", "llama", 0))
    loaded = {name: load(folder, torch.float32, torch.device("cpu")) for name, folder in folders.items()}
    for one, other in (("qwen3_5", "lfm2"), ("qwen3_5", "llama")):
        tokens = tokens_beside(loaded[one], folders[other])
        assert tokens == tokens_beside(loaded[other], folders[one])
        kept = tokens * (loaded[one].kv_bytes_per_token + loaded[other].kv_bytes_per_token)
        states = [states_beside(loaded[a], folders[b]) * loaded[a].state_bytes for a, b in ((one, other), (other, one))]
        assert kept + sum(states) <= 1 << 30
        assert states[0] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", KINDS)
def test_rounding_is_no_reason_to_refuse(family: str, dtype: torch.dtype) -> None:
    engine = make_engine_of(copy.deepcopy(model_of(family)).to(dtype))
    assert len(run_one(engine, decode("s", 0, PROMPTS[1], 4)).tokens) == 4


@pytest.mark.parametrize("num_states", [LEAST_STATES, 9])
def test_steps_are_measured_where_there_are_few_states(num_states: int) -> None:
    engine = engine_of("qwen3_5", num_states=num_states)
    costs = measure_steps(engine, budget_s=0.2)
    assert costs is not None
    assert engine.capacity.num_sessions == 0
    assert run_one(engine, decode("s", 0, PROMPTS[0])).tokens == written("qwen3_5", tuple(PROMPTS[0]))
