"""The parts of the benchmark measure what they say: traces are followed to the token, engine and bare model agree."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from pydantic_settings import CliApp
from rich.console import Console
from rich.progress import Progress

from evals.asking.record import Record
from evals.asking.stack_options import PlaceOptions
from evals.bench import alike, checkouts, engine, in_turn, page
from evals.bench.__main__ import main
from evals.bench.outside import fit
from evals.bench.replay_stack import SYSTEMS, Replayed, cache_args, numbered, replay_stack
from evals.bench.shapes import SHAPES, make_pair, shape_or_folder
from evals.bench.traces import Trace, read, save, synthetic, trace_of
from evals.figures.provenance import ROOT
from evals.figures.ratio import ratio
from evals.tasks.data import Problem
from model_worker.engine.forward.attention_choice import default_page_size
from model_worker.engine.forward.loader import load
from model_worker.settings import WorkerSettings
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Source, SwitchReason
from rstitch.errors import InvalidArgument
from rstitch.local.part import StackError

TINY = [str(ROOT / "models" / name) for name in ("tiny-slm", "tiny-llm")]


@pytest.mark.parametrize(("share", "length", "tokens"), [(0.15, 4, 400), (0.5, 2, 41), (0.02, 1, 100)])
def test_a_drawn_trace_has_the_asked_share(share: float, length: float, tokens: int) -> None:
    trace = synthetic(share, length, tokens, seed=0)
    assert trace.num_tokens == tokens
    assert trace.num_llm_tokens == round(share * tokens)
    assert trace.num_switches == 2 * max(1, round(trace.num_llm_tokens / length))
    assert trace == synthetic(share, length, tokens, seed=0) != synthetic(share, length, tokens, seed=1)


def test_traces_that_no_answer_can_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not part"):
        synthetic(0.9, 1, 100, seed=0)
    file = tmp_path / "traces"
    file.write_text('[["slm", 3]]\n[["slm", 1], ["llm", 0]]\n')
    with pytest.raises(ValueError, match="line 2: segment 1 has 0 tokens"):
        read(file)


def test_a_trace_comes_back_from_its_file(tmp_path: Path) -> None:
    traces = [synthetic(0.2, 3, 50, seed) for seed in range(3)] + [trace_of([("llm", 2), ("slm", 1), ("slm", 4)])]
    save(traces, tmp_path / "traces")
    assert read(tmp_path / "traces") == traces
    assert [segment.num_tokens for segment in traces[3].segments] == [0, 2, 5]


def test_a_model_knows_from_the_trace_when_to_give_the_pen_back() -> None:
    trace = trace_of([("slm", 2), ("llm", 3), ("slm", 0), ("llm", 1), ("slm", 1)])
    assert trace.left("slm") == [2, 1, 0, 0, 0, 0, 1]  # 0: unsure at once
    assert trace.left("llm") == [1, 1, 3, 2, 1, 1, 1]


@pytest.mark.soak
@pytest.mark.timeout(180)  # two models, Redis and two routers start as processes
async def test_a_replay_yields_exactly_the_traces_segments() -> None:
    """By the real router, Redis and workers; also where the SLM runs ahead and where nothing is caught up before."""
    traces = [
        trace_of([("slm", 3), ("llm", 2), ("slm", 0), ("llm", 1), ("slm", 9), ("llm", 4)]),
        trace_of([("llm", 1), ("slm", 20), ("llm", 1), ("slm", 2)]),
    ]
    chosen = PlaceOptions(threads=1, worker_arg=["--measure-ms=0"])
    with replay_stack(chosen, (TINY[0], TINY[1]), traces, 20, 2, Console(quiet=True)) as stack:
        other = stack.start_router("--run-ahead", "on", "--catch-up-tokens", "0")
        for address in (stack.router_address, other.address):
            async with AsyncClient(address) as client:
                replayed = Replayed("replay", client, SYSTEMS["replay"], traces, 20)
                for problem, trace in zip(numbered(2), traces, strict=True):
                    await follow(replayed, problem, trace)
                alone = await Replayed("llm_only", client, SYSTEMS["llm_only"], traces, 20).answer(problem)
                assert (alone.count("slm_tokens"), alone.count("llm_tokens")) == (0, traces[1].num_tokens)


async def follow(replayed: Replayed, problem: Problem, trace: Trace) -> None:
    answer = await replayed.answer(problem)
    kept = await replayed.client.trajectory(answer.session_id)
    prompt, *segments = kept.segments
    assert prompt.source is Source.PROMPT
    assert [(str(s.source), len(s.tokens)) for s in segments] == [(s.model, s.num_tokens) for s in trace.segments]
    assert [str(s.reason) for s in segments[1:]] == [
        SwitchReason.ENTROPY_ABOVE if segment.model == "llm" else SwitchReason.ENTROPY_BELOW
        for segment in trace.segments[1:]
    ]
    assert answer.count("switches") == trace.num_switches
    assert answer.count("llm_tokens") == trace.num_llm_tokens


def test_the_engine_bench_times_two_ways_to_the_same_tokens(tmp_path: Path) -> None:
    chosen = engine.Options(threads=1, steps=5, batches=[1, 3], contexts=[3], variant=["attention=gather"])
    made = engine.measure(TINY[0], chosen, Progress(disable=True))
    rows = made["rows"]
    assert [(row["variant"], row["batch"]) for row in rows] == [
        ("", 1), ("attention=gather", 1), ("", 3), ("attention=gather", 3)
    ]  # fmt: skip
    for row in rows:
        assert row["agreed"] == 1
        assert min(row["bare_ms"], row["engine_ms"], row["run_on_ms"], row["tokens_per_s"]) > 0
        assert 0 < row["outside_model"] < 1
        assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    assert [row["tokens"] for row in made["extends"] if not row["variant"]] == [1, 2, 4, 8, 16]
    json.dumps(made)
    for wrong in ("no_such=1", "attention=none", "page_size=many"):
        with pytest.raises(InvalidArgument, match=wrong):
            engine.measure(TINY[0], replace(chosen, engine_option=[wrong]), Progress(disable=True))


def test_steps_with_a_share_of_the_threads_and_with_all_are_timed_in_turn(tmp_path: Path) -> None:
    before, told = torch.get_num_threads(), tmp_path / "cores.json"
    given = ["--shape", TINY[0], "--threads", "1", "--all-threads", "2", "--rows", "1,3", "--rounds", "2"]
    try:
        assert main(["cores", *given, "--json", str(told)]) == 0
        assert torch.get_num_threads() == 2, "all of them last"
    finally:
        torch.set_num_threads(before)
    rows = json.loads(told.read_text())["rows"]
    assert [row["rows"] for row in rows] == [1, 3]
    assert all(min(row["share_ms"], row["all_ms"], row["cpu_ratio"], row["ratio"]["value"]) > 0 for row in rows)


def test_each_format_answers_and_is_timed_beside_16_bits(tmp_path: Path) -> None:
    before, file = torch.get_num_threads(), tmp_path / "found.json"
    sizes = ["--n", "3", "--shape", "tiny-8m", "--rows", "1,2", "--rounds", "1", "--threads", "1"]
    try:
        assert main(["quantized", *sizes, "--json", str(file)]) == 0
    finally:
        torch.set_num_threads(before)
    found = json.loads(file.read_text())
    assert [row["way"] for row in found["answers"]] == ["float32", "bfloat16", "int8", "int4"]
    megabytes = [row["megabytes"] for row in found["answers"]]
    assert megabytes == sorted(megabytes, reverse=True)
    assert all(0 <= row["accuracy"] <= 1 and 0 <= row["same"] <= 1 for row in found["answers"])
    assert [(row["way"], row["rows"]) for row in found["speed"]] == [
        (way, rows) for rows in (1, 2) for way in ("bfloat16", "int8", "int4")
    ]
    assert all(row["ms"] > 0 for row in found["speed"])


@pytest.mark.parametrize(("device", "page_size"), [("cpu", 16), ("cuda", 256)])
def test_benchmarks_read_the_cache_as_a_worker_on_the_device_does(device: str, page_size: int) -> None:
    """A CUDA device reads pages through block tables only where they are of a size that its kernel takes."""
    assert default_page_size(torch.device(device)) == page_size
    limits = engine.limits_for(1000, 300, 5, (), torch.device(device))
    assert limits.page_size == page_size
    assert limits.num_pages >= 5 * math.ceil(limits.context_length / page_size)
    settings = CliApp.run(WorkerSettings, ["--model", "m", "--listen", "h:1", *cache_args(5, 300)])
    assert settings.page_size == settings.num_pages == 0, "the worker's own choice"
    assert settings.context_length == 300
    assert settings.kv_tokens // page_size >= 6 * math.ceil(300 / page_size)


def test_a_shape_is_served_with_weights_drawn_from_a_seed(tmp_path: Path) -> None:
    slm, llm = make_pair("tiny-8m", TINY[1], tmp_path)
    assert (slm.has_weights, llm.has_weights) == (False, True)
    assert (slm.folder / "tokenizer.json").read_text() == (llm.folder / "tokenizer.json").read_text()
    device = torch.device("cpu")
    one, same, other = (load(str(slm.folder), torch.float32, device, 64, random_weights=seed) for seed in (0, 0, 1))
    assert one.stop_tokens == frozenset()
    assert sum(parameter.numel() for parameter in one.module.parameters()) == pytest.approx(7.8e6, rel=0.01)
    head, same_head, other_head = (loaded.module.lm_head.weight for loaded in (one, same, other))
    assert torch.equal(head, same_head)
    assert not torch.equal(head, other_head)
    assert load(str(llm.folder), torch.float32, device).stop_tokens == frozenset()
    with pytest.raises(typer.BadParameter, match="'no-such' is neither"):
        shape_or_folder("no-such")


def test_shapes_have_the_published_sizes() -> None:
    from transformers import AutoModelForCausalLM

    published = {"qwen2.5-1.5b": 1.54e9, "qwen2.5-7b": 7.61e9, "qwen2.5-14b": 14.7e9, "qwen2.5-32b": 32.5e9}
    for name, expected in published.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(SHAPES[name].config())
        assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(expected, rel=0.01)


def test_a_ratio_of_times_measured_in_turn_ignores_what_slows_both() -> None:
    theirs = [1.0, 1.1, 5.0, 5.5] * 10
    found = ratio([2 * seconds for seconds in theirs], theirs, block=4)
    assert found.value == pytest.approx(2)
    assert found.low <= 2 <= found.high


def test_a_fit_splits_times_and_ignores_an_answer_that_was_disturbed() -> None:
    tokens, switches = [10, 20, 40, 80, 30, 60] * 4, [0, 2, 4, 2, 6, 8] * 4
    spent = [0.1 * a + 1.5 * b + 3 for a, b in zip(tokens, switches, strict=True)]
    spent[7] += 500
    assert fit(spent, tokens, switches) == pytest.approx([0.1, 1.5, 3], abs=0.02)


def test_what_runs_in_the_background_is_no_part_of_an_answers_time() -> None:
    told = {"slm_forward_us": 4000, "llm_forward_us": 3000, "background_us": 9000, "store_us": 1000}
    usage = {"total_time_us": 10_000, "slm_forward_us": 4000, "llm_forward_us": 12_000, "breakdown": told}
    assert Record("x", 0, "", 0, 0, usage=usage).outside_ms == 3


def test_a_section_is_added_once_and_then_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    for text in ("first", "second"):
        page.write("engine", text)
        page.write("switch", text)
    text = page.PAGE.read_text()
    assert text.count("second") == text.count(":begin") == 2
    assert "first" not in text


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_checkout_beside_itself_is_as_fast(tmp_path: Path) -> None:
    small = ["--n", "2", "--blocks", "2", "--rounds", "1", "--concurrency", "1", "2", "--systems", "slm_only"]
    small += ["--max-new-tokens", "16", "--json", str(tmp_path / "found")]
    assert main(["checkouts", str(ROOT), *small]) == 0
    found = json.loads((tmp_path / "found").read_text())
    assert [(row["sessions"], row["system"], row["pairs"]) for row in found["rows"]] == [
        (1, "slm_only", 2),
        (2, "slm_only", 2),
    ]
    assert len(found["records"]) == 2 * (2 + 4)
    for row in found["rows"]:
        assert 0 < row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    with pytest.raises(StackError, match="no checkout"):
        checkouts.run(checkouts.Options(before=tmp_path))


def test_a_lock_is_measured_beside_an_open_door(tmp_path: Path) -> None:
    small = ["--n", "2", "--blocks", "2", "--rounds", "1", "--concurrency", "1", "2", "--systems", "slm_only"]
    small += ["--max-new-tokens", "16", "--json", str(tmp_path / "found")]
    assert main(["security", *small]) == 0
    found = json.loads((tmp_path / "found").read_text())
    locks = ["keys", "keys, quotas", "keys, quotas, TLS"]
    assert [(row["sessions"], row["door"], row["pairs"]) for row in found["rows"]] == [
        (sessions, lock, 2) for sessions in (1, 2) for lock in locks
    ]
    answers = {}
    for record in found["records"]:
        answers.setdefault((record["problem"], record["sample"]), set()).add(tuple(record["tokens"]))
    assert all(len(tokens) == 1 for tokens in answers.values()), "a lock changes no token"


def test_the_ratio_of_pairs_forgives_what_hits_both() -> None:
    before = [1.0, 5.0, 2.0, 40.0, 3.0]
    found = in_turn.median_ratio([1.1 * ms for ms in before], before)
    assert (found.low, found.value, found.high) == pytest.approx((1.1, 1.1, 1.1))


@pytest.mark.parametrize(
    ("ours", "theirs", "num"),
    [
        (["a", "b", ""], ["a", "b", "<|end|>"], 3),
        (["a", "", "c"], ["a", "b", "c"], 1),
        (["a", ""], ["a", "b", "c"], 1),
        (["a", "b"], ["a", ""], 1),
        (["a"], ["a"], 1),
        ([], [], 0),
    ],
)
def test_only_the_token_that_ends_an_answer_may_have_a_name_elsewhere(
    ours: list[str], theirs: list[str], num: int
) -> None:
    assert alike.num_alike(ours, theirs) == num


def test_schemas_are_timed_beside_answers_that_are_held_to_nothing(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    asked = ["--vocab-sizes", "512", "--answers", "2", "--tokens", "12", "--threads", "1", "--json", str(file)]
    assert main(["schemas", *asked]) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert row["vocab_size"] == 512
    assert all(row[f"{name}_ms"] > 0 for name in ("free", "held", "mean", "median", "p99", "first", "another"))
    assert row["mean_ms"] < row["held_ms"], "the grammar is asked within the token's time"


def test_the_store_is_asked_in_turn_with_few_and_with_many_trajectories(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    assert main(["store", "--sizes", "90,300", "--rounds", "10", "--json", str(file)]) == 0
    rows = {row["operation"]: row for row in json.loads(file.read_text())["rows"]}
    assert {"claim", "append", "get", "first page", "deep page", "tenant's page", "labelled page"} <= set(rows)
    for row in rows.values():
        for side in ("few", "many", "few_cpu", "many_cpu"):
            assert 0 < row[f"{side}_p50_ms"] <= row[f"{side}_p99_ms"]
