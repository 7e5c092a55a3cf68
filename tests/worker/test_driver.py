"""The engine's thread: when it steps, and that this changes no token."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model_worker.device_turns import DeviceTurns
from model_worker.engine.bookkeeping.batching import Arrivals, BatchingRule, Load
from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.types import FinishReason, Handoff, RunFailed, RunFinished, RunRequest
from model_worker.outbox import Piece
from model_worker.spare_cores import SpareCores
from tests.support.driving import driving
from tests.support.engines import generate, make_engine

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], [5, 250, 17, 130]]
COSTS = CostModel({1: 20_000, 64: 21_000}, {2: 20_000}, {2: 0})


class UntilTwo(BatchingRule):
    """Holds a step back for longer than any test lasts, unless it has two rows."""

    def __init__(self) -> None:
        super().__init__(None, 3600.0)
        self.holds = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def delay(self, now: float, load: Load, arrivals: Arrivals) -> float:
        if load.num_rows != 1:
            return 0.0
        self._held_since = self._held_since or now
        self._loop.call_soon_threadsafe(self.holds.set)
        return 3600.0


async def test_a_step_that_is_held_back_starts_when_the_awaited_row_comes() -> None:
    engine, model = make_engine()
    rule = UntilTwo()
    async with driving(engine, rule) as (_, run):
        first = asyncio.create_task(run(RunRequest("first", 0, PROMPTS[0], max_tokens=5)))
        await rule.holds.wait()
        assert engine.counters.num_steps == 0
        second = asyncio.create_task(run(RunRequest("second", 0, PROMPTS[1], max_tokens=5)))
        for prompt, task in zip(PROMPTS, (first, second), strict=False):
            tokens, finished = await task
            assert tokens == generate(model, prompt, 5)
            assert finished.timing.num_steps == 5
        assert engine.counters.num_steps == 5
        assert engine.counters.num_delayed_steps == 1
        assert engine.counters.delayed_us > 0


async def test_a_refused_run_fails_after_the_end_of_the_run_that_it_superseded() -> None:
    engine, _ = make_engine()
    ends: list[tuple[int, object]] = []
    over, begun = asyncio.Event(), asyncio.Event()

    def sink(ticket: int, piece: Piece) -> None:
        begun.set()
        if piece.end is not None:
            ends.append((ticket, piece.end))
        if len(ends) == 2:
            over.set()

    async with driving(engine) as (driver, _):
        first = driver.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=90), sink)
        await begun.wait()
        driver.supersede(first)
        second = driver.submit(RunRequest("s", 200, [5], max_tokens=3), sink)  # beyond what is held
        await over.wait()
    assert [ticket for ticket, _ in ends] == [first, second]
    assert isinstance(ends[0][1], RunFinished)
    assert ends[0][1].reason is FinishReason.SUPERSEDED
    assert isinstance(ends[1][1], RunFailed)


async def test_catch_up_is_not_held_back() -> None:
    engine, _ = make_engine()
    async with driving(engine, UntilTwo()) as (_, run):
        _, finished = await run(RunRequest("s", 0, PROMPTS[0]))
        assert finished.held == len(PROMPTS[0])


async def test_two_workers_in_turns_write_what_each_writes_alone(tmp_path: Path) -> None:
    """Runs that decode, runs that only catch up and runs that are cancelled, on both sides at once."""
    (slm, slm_model), (llm, llm_model) = make_engine(seed=0), make_engine(seed=1)
    sides = [DeviceTurns(tmp_path / "device", role, 2) for role in ("slm", "llm")]
    async with driving(slm, None, sides[0]) as (_, run_slm), driving(llm, None, sides[1]) as (llm_driver, run_llm):
        llm_driver.cancel(llm_driver.submit(RunRequest("gone", 0, [5], max_tokens=50), lambda *_: None))
        runs = [
            run(RunRequest(f"s{i}", 0, p, max_tokens=8)) for i, p in enumerate(PROMPTS) for run in (run_slm, run_llm)
        ]
        catch_up = [run(RunRequest("c", 0, PROMPTS[1])) for run in (run_slm, run_llm)]
        *written, _, _ = await asyncio.gather(*runs, *catch_up)
        for index, prompt in enumerate(PROMPTS):
            assert written[2 * index][0] == generate(slm_model, prompt, 8)
            assert written[2 * index + 1][0] == generate(llm_model, prompt, 8)


async def test_two_workers_that_share_cores_write_what_each_writes_alone(tmp_path: Path) -> None:
    """Each computes with one thread and with two, as the other has work or not."""
    (slm, slm_model), (llm, llm_model) = make_engine(seed=0), make_engine(seed=1)
    taken: list[int] = []

    def set_threads(num: int) -> None:
        taken.append(num)
        torch.set_num_threads(num)

    before = torch.get_num_threads()
    sides = [SpareCores(tmp_path / "cores", role, 1, 2, set_threads) for role in ("slm", "llm")]
    try:
        async with (
            driving(slm, None, None, sides[0]) as (_, run_slm),
            driving(llm, None, None, sides[1]) as (_, run_llm),
        ):
            for index, prompt in enumerate(PROMPTS):
                request = RunRequest(f"s{index}", 0, prompt, max_tokens=12)
                assert (await run_slm(request))[0] == generate(slm_model, prompt, 12)  # alone
                both = await asyncio.gather(run_slm(replace(request, session_id=f"b{index}")), run_llm(request))
                assert both[0][0] == generate(slm_model, prompt, 12)
                assert both[1][0] == generate(llm_model, prompt, 12)
    finally:
        torch.set_num_threads(before)
    assert taken[0] == 2
    assert set(taken) <= {1, 2}


@pytest.mark.parametrize("batching", [None, BatchingRule(COSTS, 0.02), BatchingRule(None, 0.02, size=3)])
async def test_holding_back_changes_no_token(batching: BatchingRule | None) -> None:
    """Sessions that hand over after each token and come back, some at once and some after a moment."""
    engine, model = make_engine()
    async with driving(engine, batching) as (driver, run):

        async def session(index: int) -> list[int]:
            kept = list(PROMPTS[index])
            for turn in range(12):
                position, new = (len(kept), []) if turn else (0, list(kept))
                request = RunRequest(f"s{index}", position, new, max_tokens=9, handoff=Handoff(below=1.0))
                tokens, finished = await run(request)
                assert finished.reason in (FinishReason.HANDOFF, FinishReason.STOP)
                kept += tokens
                await asyncio.sleep(0.001 * (index % 3))
            driver.leave(f"s{index}")
            return kept[len(PROMPTS[index]) :]

        written = await asyncio.gather(*(session(index) for index in range(len(PROMPTS))))
        for prompt, tokens in zip(PROMPTS, written, strict=True):
            assert tokens == generate(model, prompt, 12)
        counters = await driver.ask(lambda engine: engine.counters)
        assert batching is not None or counters.num_delayed_steps == 0


async def test_the_thread_that_steps_is_warm_before_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, model = make_engine()
    seen: list[str] = []
    runner = type(engine._runner)
    launch = runner.launch

    def noted(self: Any, rows: Any, **kwargs: Any) -> Any:
        seen.append(f"{threading.current_thread().name}: {rows[0].run.session.session_id}")
        return launch(self, rows, **kwargs)

    monkeypatch.setattr(runner, "launch", noted)
    async with driving(engine, None) as (_, start):
        tokens, _ = await start(RunRequest("s", 0, PROMPTS[0], max_tokens=2))
    assert tokens == generate(model, PROMPTS[0], 2)
    assert seen == ["engine: trial", "engine: s", "engine: s"]
    assert engine.counters.num_steps == 2
