"""A worker of three ranks as processes: what it says is what one process says, and none outlives another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from model_worker import rank_processes
from model_worker.engine.errors import UnsupportedModel
from model_worker.main import start
from model_worker.rank_processes import RankProcesses
from model_worker.settings import WorkerSettings
from rstitch.errors import RstitchError
from rstitch.local.processes import Process, spawn
from rstitch.v1 import common_pb2, worker_pb2_grpc
from rstitch.v1 import worker_pb2 as pb
from tests.support.forked import spawn_forked
from tests.support.worker_calls import decode_once, read_run
from tests.worker.conftest import ROLE, StartWorker

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "models/tiny-llm")
PROMPT = [7, 8, 9, 10, 11]
LONG = [20 + place % 200 for place in range(70)]
SAMPLED = common_pb2.Sampling(temperature=1.0, top_p=0.9, seed=5)
FULL = pb.Returns(logits=pb.LOGITS_FULL)


class Started:
    """A worker of three ranks that has begun to start."""

    def __init__(self, process: Process, log: asyncio.StreamReader) -> None:
        self.process, self.pid, self._log = process, process.pid, log

    async def line_with(self, event: str) -> dict[str, Any]:
        seen = []
        async for line in self._log:
            seen.append(line)
            if event.encode() in line:  # which a thread's traceback may be in front of
                return dict(json.loads(line[line.index(b'{"') :]))
        raise AssertionError(f"no {event}: " + b"".join(seen).decode())

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait)


@asynccontextmanager
async def three_ranks(folder: Path, *flags: str, fork: bool = True) -> AsyncIterator[Started]:
    """Forked, or started as a user starts it, which takes three imports of torch."""
    log = folder / "log"
    os.mkfifo(log)
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=1 << 20)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.open(log, os.O_RDONLY | os.O_NONBLOCK), "rb")
    )
    command = [sys.executable, "-m", *(["tests.support.forked_ranks"] if fork else []), "llm_worker", "--model", MODEL]
    command += ["--tp", "3", "--listen", "127.0.0.1:0", "--threads", "3", "--measure-ms", "0", *flags]
    with log.open("wb") as file:
        process = (spawn_forked if fork else spawn)(command, dict(os.environ), file)
    try:
        yield Started(process, reader)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        transport.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def gone(pid: int) -> None:
    """Waits until a process, which is no child of ours, has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(process, ended.set)
    await ended.wait()
    asyncio.get_running_loop().remove_reader(process)
    os.close(process)


async def test_three_ranks_say_what_one_says_and_end_with_each_other(start_worker: StartWorker, tmp_path: Path) -> None:
    _, one = await start_worker(model=MODEL, dtype="float32", measure_ms=0)
    requests = [
        pb.DecodeRequest(session_id=f"{name}{sampling is None}", tokens=tokens, max_tokens=12, sampling=sampling)
        for name, tokens in (("short", PROMPT), ("long", LONG))
        for sampling in (None, SAMPLED)
    ]
    step = pb.StepRequest(session_id="step", tokens=LONG, returns=FULL)
    async with three_ranks(tmp_path, "--max-batch-tokens", "48") as process:
        address = (await process.line_with("ready"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            three: Any = worker_pb2_grpc.WorkerServiceStub(channel)
            theirs, ours = [await stub.GetInfo(pb.GetInfoRequest()) for stub in (one, three)]
            assert "tp: 3" in ours.path
            assert (ours.num_cards, ours.weights_fingerprint) == (3, theirs.weights_fingerprint)
            assert ours.num_parameters == theirs.num_parameters
            assert ours.capacity.num_pages == theirs.capacity.num_pages
            logits = [np.frombuffer((await stub.Step(step)).logits, "<f4") for stub in (one, three)]
            np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-4)
            for stub in (one, three):  # catch-up, of a session that then goes on
                tokens, finish = await decode_once(stub, pb.DecodeRequest(session_id="shortTrue", tokens=[9] * 30))
                assert (tokens, finish.held) == ([], 30)
            answers = [await asyncio.gather(*(decode_once(stub, each) for each in requests)) for stub in (one, three)]
            assert [tokens for tokens, _ in answers[1]] == [tokens for tokens, _ in answers[0]]
            truth = answers[0][0][0]
            draft = pb.DecodeRequest(session_id="d", tokens=PROMPT, draft=[*truth[:5], 9], max_tokens=8)
            verified = [await decode_once(stub, draft) for stub in (one, three)]
            assert verified[0][0] == verified[1][0] == truth[: len(verified[0][0])]
            # A rank that dies takes the worker with it, in the middle of an answer.
            call = three.Decode()
            await call.write(pb.DecodeRequest(session_id="last", tokens=PROMPT, max_tokens=1500, stop_tokens=[633]))
            await call.read()
            ranks = children(process.pid)
            assert len(ranks) == 2
            os.kill(ranks[1], signal.SIGKILL)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_run(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        lost = await process.line_with("a rank ended, so this worker ends")
        assert (lost["rank"], lost["exit_code"]) == (2, -signal.SIGKILL)
        assert await process.ended() == 70
        await gone(ranks[0])


async def test_ranks_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    async with three_ranks(tmp_path) as process:
        assert (await process.line_with("ranks started"))["count"] == 3
        ranks = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        await process.ended()
        for rank in ranks:
            await gone(rank)


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_ranks_end_with_a_worker_that_serves(number: signal.Signals, tmp_path: Path) -> None:
    """Killed, they find out by themselves; told to end, it lets its answers end with them."""
    async with three_ranks(tmp_path, fork=False) as process:
        address = (await process.line_with("ready"))["address"]
        ranks = children(process.pid)
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = worker_pb2_grpc.WorkerServiceStub(channel).Decode()
            await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=60, stop_tokens=[633]))
            await call.read()
            for pid in (process.pid, *(ranks if number is signal.SIGTERM else ())):  # as a terminal sends it to all
                os.kill(pid, number)
            await call.done_writing()
            if number is signal.SIGTERM:
                assert (await read_run(call))[1].reason is not pb.Finish.REASON_UNSPECIFIED
        assert await process.ended() == (0 if number is signal.SIGTERM else -number)
        for rank in ranks:
            await gone(rank)


async def refusal(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Exception:
    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises((RstitchError, UnsupportedModel)) as caught:
        await start(ROLE, WorkerSettings(model=MODEL, listen="127.0.0.1:0", **settings), lambda error: None)
    return caught.value


async def test_a_number_of_ranks_that_does_not_divide_is_refused_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "--tp 2 does not divide its 3 heads; 1 and 3 do" in str(await refusal(monkeypatch, tp=2))


@pytest.mark.parametrize(
    ("flag", "value"),
    [("quantize", "int8"), ("compile", "on"), ("batch_invariant", True), ("beside", MODEL)],
)
async def test_what_is_not_for_ranks_is_refused_by_name(
    flag: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = await refusal(monkeypatch, tp=3, **{flag: value})
    assert isinstance(error, RstitchError)
    assert error.field == "--" + flag.replace("_", "-")
    assert "--tp" in str(error)


def test_a_rank_that_ends_before_all_have_met_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 waits for it where nothing else would end the wait."""
    over, codes, told = threading.Event(), [], []

    class Group:
        def __init__(self, *_: object) -> None:
            assert over.wait(30)

        def leave(self) -> None: ...

    def end(code: int) -> None:
        codes.append(code)
        over.set()

    def child(settings: WorkerSettings, facts: dict[str, object]) -> subprocess.Popen[str]:
        told.append((facts["rank"], settings.device))
        return subprocess.Popen(["false"], stdin=subprocess.PIPE, text=True)

    monkeypatch.setattr(rank_processes, "TorchRanks", Group)
    monkeypatch.setattr(rank_processes, "_start", child)
    monkeypatch.setattr(rank_processes, "_TO_SAY_WHY_S", 0)
    monkeypatch.setattr(rank_processes.os, "_exit", end)
    settings = WorkerSettings(model=MODEL, listen="127.0.0.1:0", tp=2, device="cuda:3")
    ranks = RankProcesses("llm", settings, lambda error: None)
    ranks.end()
    assert codes == [1]
    assert told == [(1, "cuda:4")], "the card after that of rank 0"
