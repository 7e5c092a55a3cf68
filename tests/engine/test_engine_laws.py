"""Laws 1, 6 and 7 at the engine: one model's tokens are transformers' own, whatever else the batch holds."""

from __future__ import annotations

import random

import pytest
import torch

from model_worker.engine.engine import Engine
from model_worker.engine.errors import (
    ContextFull,
    ForwardFailed,
    HeldTooShort,
    InvalidRun,
    NoCapacity,
    PrefixMismatch,
    SessionBusy,
)
from model_worker.engine.forward.loader import adopt
from model_worker.engine.types import FinishReason, Handoff, Limits, Returns, RunRequest, Sampling
from tests.support.engines import (
    Result,
    collect,
    failing_forward,
    generate,
    make_engine,
    make_engine_of,
    run_all,
    run_one,
)
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, STOP_TOKEN, VOCAB_SIZE, make_model

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130]]


@pytest.mark.parametrize("attention", ["native", "in-place", "gather"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_greedy_decoding_equals_transformers_generate(architecture: str, attention: str) -> None:
    engine, model = make_engine(architecture, max_batch_tokens=24, attention=attention)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=40) for i, prompt in enumerate(PROMPTS)]
    for prompt, result in zip(PROMPTS, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 40)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])
def test_pages_that_lie_scattered_change_nothing(architecture: str) -> None:
    """Sessions that grow in turn in a pool so small that their pages get between each other."""
    engine, model = make_engine(architecture, num_pages=40, page_size=4)
    requests = [RunRequest(f"s{i}", 0, prompt[:12], max_tokens=20) for i, prompt in enumerate(PROMPTS)]
    results = {engine.submit(request): Result() for request in requests}
    scattered = False
    while not engine.is_idle:
        collect(engine, results)
        scattered = scattered or any(not session.contiguous for session in engine._table)
    engine.check_integrity()
    assert scattered, "the pool was too large for this test"
    for request, result in zip(requests, results.values(), strict=True):
        assert result.tokens == generate(model, list(request.tokens), 20)


def test_a_long_row_and_a_short_one_at_the_end_of_the_cache() -> None:
    """Read together, the short one's padding would reach beyond the cache."""
    engine, model = make_engine(num_pages=64, page_size=4)
    long, short = [index % 290 for index in range(130)], PROMPTS[0]
    run_all(engine, [RunRequest(name, 0, [5]) for name in ("long", "b", "c", "short")])  # a lane each
    for name in ("b", "c"):
        engine.close_session(name)
    requests = [RunRequest("long", 0, long, max_tokens=10), RunRequest("short", 0, short, max_tokens=10)]
    for request, result in zip(requests, run_all(engine, requests), strict=True):
        assert result.error is None
        assert result.tokens == generate(model, list(request.tokens), 10)


def test_step_returns_the_models_own_distribution() -> None:
    engine, model = make_engine("qwen2")
    result = run_one(engine, RunRequest("s", 0, PROMPTS[3], returns=Returns(-1, True)))
    with torch.inference_mode():
        output = model(torch.tensor([PROMPTS[3]]), output_hidden_states=True)
    proposal = result.finished.proposal
    logits = torch.frombuffer(bytearray(proposal.logits), dtype=torch.float32)
    hidden = torch.frombuffer(bytearray(proposal.hidden_state), dtype=torch.float32)
    expected = output.logits[0, -1, :VOCAB_SIZE]
    torch.testing.assert_close(logits, expected.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(hidden, output.hidden_states[-1][0, -1].float(), atol=1e-4, rtol=1e-4)
    logprobs = expected.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum() / torch.tensor(float(VOCAB_SIZE)).log()
    assert proposal.entropy == pytest.approx(float(entropy), abs=1e-6)
    assert proposal.logprob == pytest.approx(float(logprobs[proposal.token]), abs=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3)])
def test_other_dtypes_give_the_models_own_logits(dtype: torch.dtype, tolerance: float) -> None:
    model = make_model(CONFIGS["llama"], 0).to(dtype)
    with torch.inference_mode():
        expected = [float(model(torch.tensor([prompt])).logits[0, -1, :VOCAB_SIZE].max()) for prompt in PROMPTS]
    engine = Engine(adopt(model), Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=128))
    requests = [RunRequest(f"s{i}", 0, prompt, returns=Returns(1)) for i, prompt in enumerate(PROMPTS)]
    found = [result.finished.proposal.top_logits[0][1] for result in run_all(engine, requests)]
    assert found == pytest.approx(expected, abs=tolerance)


def test_step_by_step_equals_decoding() -> None:
    engine, model = make_engine()
    tokens = list(PROMPTS[0])
    proposal = run_one(engine, RunRequest("s", 0, tokens, returns=Returns())).finished.proposal
    for _ in range(15):
        tokens.append(proposal.token)
        request = RunRequest("s", len(tokens) - 1, [proposal.token], returns=Returns())
        proposal = run_one(engine, request).finished.proposal
    assert tokens[len(PROMPTS[0]) :] == generate(model, PROMPTS[0], 15)


def test_rollback_and_retry_change_nothing() -> None:
    """Going back to any position and on again gives the same tokens as never having gone further."""
    engine, model = make_engine("qwen3")
    expected = generate(model, PROMPTS[0], 40)
    rng = random.Random(1)
    tokens = PROMPTS[0] + run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=40)).tokens
    for _ in range(20):
        position = rng.randrange(len(PROMPTS[0]), len(tokens))
        result = run_one(engine, RunRequest("s", position, [], max_tokens=len(tokens) - position))
        assert tokens[:position] + result.tokens == tokens
    assert tokens[len(PROMPTS[0]) :] == expected


def test_handoff_above_discards_and_below_keeps() -> None:
    engine, _ = make_engine()
    free = run_one(engine, RunRequest("free", 0, PROMPTS[0], max_tokens=60))
    tau = sorted(free.entropies)[len(free.entropies) // 2]
    first_above = next(i for i, entropy in enumerate(free.entropies) if entropy > tau)
    first_below = next(i for i, entropy in enumerate(free.entropies) if entropy <= tau)
    above = run_one(engine, RunRequest("above", 0, PROMPTS[0], max_tokens=60, handoff=Handoff(above=tau)))
    assert above.tokens == free.tokens[:first_above]
    assert above.finished.reason is FinishReason.HANDOFF
    assert above.finished.proposal.token == free.tokens[first_above]
    assert above.finished.held == len(PROMPTS[0]) + first_above
    below = run_one(engine, RunRequest("below", 0, PROMPTS[0], max_tokens=60, handoff=Handoff(below=tau)))
    assert below.tokens == free.tokens[: first_below + 1]
    assert below.finished.reason is FinishReason.HANDOFF
    assert below.finished.held == len(PROMPTS[0]) + first_below + 1


def test_stop_token_is_kept_and_ends_the_run() -> None:
    engine, _ = make_engine()
    free = run_one(engine, RunRequest("free", 0, PROMPTS[0], max_tokens=30))
    stop = free.tokens[10]
    result = run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=30, stop_tokens=frozenset([stop])))
    assert result.tokens == free.tokens[: free.tokens.index(stop) + 1]
    assert result.finished.reason is FinishReason.STOP


def test_context_ends_the_run() -> None:
    engine, _ = make_engine(context_length=32)
    result = run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=100))
    assert len(PROMPTS[0]) + len(result.tokens) == 32
    assert result.finished.reason is FinishReason.CONTEXT


@pytest.mark.parametrize(
    "sampling", [Sampling(0.8, seed=3), Sampling(1.3, 0.7, 0, 4), Sampling(1.0, 1.0, 5, 2**64 - 1)]
)
def test_seeded_sampling_is_the_same_alone_in_a_batch_and_after_a_restart(sampling: Sampling) -> None:
    engine, _ = make_engine()
    alone = [
        run_one(engine, RunRequest(f"a{i}", 0, prompt, sampling, max_tokens=30)).tokens
        for i, prompt in enumerate(PROMPTS)
    ]
    batch = run_all(engine, [RunRequest(f"b{i}", 0, p, sampling, max_tokens=30) for i, p in enumerate(PROMPTS)])
    assert [result.tokens for result in batch] == alone
    again, _ = make_engine()
    half = run_one(again, RunRequest("c", 0, PROMPTS[0] + alone[0][:13], sampling, max_tokens=17))
    assert half.tokens == alone[0][13:]


def test_sampling_follows_the_distribution() -> None:
    """Frequencies over seeds against probabilities: chi-square far beyond its mean would mean a wrong sampler."""
    engine, model = make_engine()
    with torch.inference_mode():
        probabilities = model(torch.tensor([PROMPTS[0]])).logits[0, -1, :VOCAB_SIZE].softmax(-1)
    draws = 600
    counts = torch.zeros(VOCAB_SIZE)
    requests = [RunRequest(f"s{i}", 0, PROMPTS[0], Sampling(1.0, seed=i), returns=Returns()) for i in range(draws)]
    for start in range(0, draws, 20):
        for result in run_all(engine, requests[start : start + 20]):
            counts[result.finished.proposal.token] += 1
    expected = probabilities * draws
    cells = expected >= 5
    statistic = float(((counts - expected)[cells] ** 2 / expected[cells]).sum())
    degrees = int(cells.sum())
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5
    nucleus = run_one(engine, RunRequest("top_k", 0, PROMPTS[0], Sampling(2.0, top_k=1, seed=9), returns=Returns()))
    assert nucleus.finished.proposal.token == int(probabilities.argmax())


def test_no_page_is_leaked_and_tokens_are_right_under_eviction_and_refusal() -> None:
    """Law 6 with a pool for three sessions and twelve of them: whatever is refused or evicted is sent again."""
    engine, model = make_engine(num_pages=16, page_size=8, context_length=120, max_batch_tokens=32)
    prompts = {f"s{i}": [10 + i, 11, 12, 200 - i] for i in range(12)}
    kept = {name: list(prompt) for name, prompt in prompts.items()}
    refusals = 0
    for _ in range(500):
        todo = [name for name, tokens in kept.items() if len(tokens) < 44 and tokens[-1] != STOP_TOKEN]
        if not todo:
            break
        results: dict[int, Result] = {}
        names: dict[int, str] = {}
        for name in todo[:5]:
            try:
                run = engine.submit(
                    RunRequest(name, len(kept[name]) - 1, kept[name][-1:], max_tokens=44 - len(kept[name]))
                )
            except HeldTooShort as error:
                tail = kept[name][error.held :]
                run = engine.submit(RunRequest(name, error.held, tail, max_tokens=44 - len(kept[name])))
            results[run], names[run] = Result(), name
        while not engine.is_idle:
            collect(engine, results)
        engine.check_integrity()
        for run, result in results.items():
            kept[names[run]] += result.tokens
            refusals += isinstance(result.error, NoCapacity)
    assert refusals > 0
    assert engine.counters.num_evictions > 0
    for name, prompt in prompts.items():
        assert kept[name][len(prompt) :] == generate(model, prompt, 40)


def test_a_run_of_a_busy_session_is_refused() -> None:
    engine, _ = make_engine()
    engine.submit(RunRequest("s", 0, [5], max_tokens=5))
    with pytest.raises(SessionBusy):
        engine.submit(RunRequest("s", 0, [5], max_tokens=5))


def test_superseded_run_keeps_its_tokens() -> None:
    engine, model = make_engine()
    run = engine.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=50))
    for _ in range(8):
        engine.step()
    (event,) = engine.supersede(run)
    assert event.reason is FinishReason.SUPERSEDED
    assert event.held == len(PROMPTS[0]) + 8
    rest = run_one(engine, RunRequest("s", event.held, [], max_tokens=12))
    assert rest.tokens == generate(model, PROMPTS[0], 20)[8:]


def test_a_background_run_writes_the_same_tokens_and_is_continued_by_a_normal_one() -> None:
    engine, model = make_engine(max_batch_tokens=6)
    sampling = Sampling(0.9, seed=5)
    alone = run_one(engine, RunRequest("alone", 0, PROMPTS[0], sampling, max_tokens=20)).tokens
    ahead = RunRequest("ahead", 0, PROMPTS[0], sampling, max_tokens=12, background=True)
    others = [RunRequest(f"s{i}", 0, prompt, max_tokens=20) for i, prompt in enumerate(PROMPTS)]
    written, *rest = run_all(engine, [ahead, *others])
    assert written.finished.reason is FinishReason.LENGTH
    assert written.tokens == alone[:12]
    assert [result.tokens for result in rest] == [generate(model, prompt, 20) for prompt in PROMPTS]
    run = engine.submit(RunRequest("ahead", written.finished.held, [], sampling, max_tokens=20, background=True))
    engine.step()
    (superseded,) = engine.supersede(run)
    normal = run_one(engine, RunRequest("ahead", superseded.held, [], sampling, max_tokens=7))
    assert normal.tokens == alone[13:]


def test_a_background_run_stops_at_its_handoff() -> None:
    engine, _ = make_engine()
    free = run_one(engine, RunRequest("free", 0, PROMPTS[0], max_tokens=60))
    tau = sorted(free.entropies)[len(free.entropies) // 2]
    request = RunRequest("s", 0, PROMPTS[0], max_tokens=60, handoff=Handoff(above=tau), background=True)
    ahead = run_one(engine, request)
    assert ahead.finished.reason is FinishReason.HANDOFF
    assert ahead.tokens == free.tokens[: len(ahead.tokens)]
    assert ahead.finished.proposal.entropy > tau


def test_the_time_of_a_run_adds_up() -> None:
    engine, _ = make_engine(max_batch_tokens=8)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=10) for i, prompt in enumerate(PROMPTS)]
    for result in run_all(engine, requests):
        timing = result.finished.timing
        parts = timing.queue_us + timing.forward_us + timing.host_us + timing.wait_us
        assert timing.num_steps > 0
        assert abs(parts - timing.total_us) <= timing.num_steps + 2  # microseconds, each part rounded down


def test_catch_up_keeps_nothing_back() -> None:
    engine, model = make_engine()
    result = run_one(engine, RunRequest("s", 0, PROMPTS[3]))
    assert result.finished.reason is FinishReason.LENGTH
    assert result.finished.held == len(PROMPTS[3])
    assert engine.counters.num_computed_tokens == len(PROMPTS[3])
    after = run_one(engine, RunRequest("s", len(PROMPTS[3]), [], max_tokens=10))
    assert after.tokens == generate(model, PROMPTS[3], 10)


def test_a_failed_forward_fails_its_runs_and_leaves_the_books_right() -> None:
    own, model = make_model(CONFIGS["llama"], 0), make_model(CONFIGS["llama"], 0)
    engine = make_engine_of(own)
    with failing_forward(own, RuntimeError("device lost")):
        failed = run_all(engine, [RunRequest("s", 0, PROMPTS[0], max_tokens=5)])[0]
    assert "device lost" in str(failed.error)
    assert run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=5)).tokens == generate(model, PROMPTS[0], 5)


@pytest.mark.parametrize(
    ("request_", "error", "field"),
    [
        (RunRequest("s", 0, [VOCAB_SIZE], max_tokens=1), InvalidRun, "tokens"),
        (RunRequest("s", 0, [], max_tokens=1), InvalidRun, "tokens"),
        (RunRequest("s", 5, [1], max_tokens=1), HeldTooShort, "position"),
        (RunRequest("s", 2**32 - 1, [1], max_tokens=2**32 - 1), ContextFull, "position"),
        (RunRequest("s", 0, [5] * CONTEXT_LENGTH, max_tokens=1), ContextFull, "tokens"),
        (RunRequest("held", 2, [1], max_tokens=1, prefix_checksum=1), PrefixMismatch, "prefix_checksum"),
    ],
)
def test_what_cannot_be_right_is_refused_and_changes_nothing(
    request_: RunRequest, error: type[Exception], field: str
) -> None:
    engine, _ = make_engine(num_pages=CONTEXT_LENGTH // 16)
    run_one(engine, RunRequest("held", 0, [5, 6, 7]))
    for index in range(engine.limits.num_pages - 1):  # the table is full: one session more would evict one
        run_one(engine, RunRequest(f"s{index}", 0, [5]))
    with pytest.raises(error) as caught:
        engine.submit(request_)
    assert caught.value.field == field
    assert engine.capacity.num_sessions == engine.limits.num_pages
    assert engine.close_session("held") == (3, [])
    engine.check_integrity()


def test_a_lost_device_ends_the_engine() -> None:
    """The worker then exits and is started anew: every later forward would fail, and the health would say SERVING."""
    model = make_model(CONFIGS["llama"], 0)
    engine = make_engine_of(model)
    engine.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=5))
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with failing_forward(model, lost), pytest.raises(torch.AcceleratorError):
        engine.step()


def test_a_temperature_near_zero_is_greedy() -> None:
    engine, _ = make_engine()
    greedy = run_one(engine, RunRequest("greedy", 0, PROMPTS[0], max_tokens=10)).tokens
    for temperature in (1e-3, 1e-300, 5e-324):
        cold = RunRequest(f"{temperature}", 0, PROMPTS[0], Sampling(temperature, seed=3), max_tokens=10)
        other = RunRequest(f"other{temperature}", 0, PROMPTS[0], max_tokens=10)
        assert [result.tokens for result in run_all(engine, [cold, other])] == [greedy, greedy]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)])
def test_logits_that_are_no_distribution_fail_their_run_alone(sampling: Sampling) -> None:
    """A token of a NaN row would be kept under `above`, and its choice would fail the whole batch."""
    own, model = make_model(CONFIGS["llama"], 0), make_model(CONFIGS["llama"], 0)
    engine = make_engine_of(own)
    broken_token = 299
    with torch.no_grad():
        own.get_input_embeddings().weight[broken_token] = float("nan")
    requests = [
        RunRequest("bad", 0, [5, broken_token], sampling, max_tokens=8, handoff=Handoff(above=0.5)),
        RunRequest("good", 0, [5, 6], max_tokens=8),
    ]
    bad, good = run_all(engine, requests)
    assert isinstance(bad.error, ForwardFailed)
    assert bad.tokens == []
    assert good.tokens == generate(model, [5, 6], 8)
