"""A run of `rstitch train-head` whose parts are killed at any moment goes on, and makes the same head to the bit."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from evals.latency import Decode, LatencyModel, ModelLatency, Prefill
from rstitch.local.processes import Process
from rstitch.local.stack import LocalStack
from rstitch.service.head import Head
from tests.support.forked import spawn_forked
from tests.support.served import ROOT, SMALL, Pair, start_stack

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

LATENCY = LatencyModel(
    ModelLatency(Prefill(0, 0, 0.03, 1.0), Decode(0, 1.0)), ModelLatency(Prefill(0, 0, 0.1, 2.0), Decode(0, 3.0))
)
# Files of a run in the order in which they come; each is there a while before the next one.
STAGES = ("alone.rollouts", "alone.json", "beginning.pt", "dev-0.rollouts", "step-1.rollouts", "step-2.rollouts")
PATIENCE_S = 200


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    """The bundled pair on workers whose hidden states have the same bits in any batch."""
    pair = Pair(ROOT / "models" / "tiny-slm", ROOT / "models" / "tiny-llm", "float32")
    with start_stack(pair, [*SMALL, "--batch-invariant"]) as running:
        yield running


class Run:
    """A small run, in a folder of its own, as often as it is started."""

    def __init__(self, folder: Path, *where: str) -> None:
        folder.mkdir()
        self.folder = folder
        LATENCY.save(folder / "latency.json")
        # fmt: off
        self._command = [
            sys.executable, "-m", "training.head", *where, "--task", "tiny", "--name", "killed", "--fast", "--json",
            "--split", "8/4/0", "--num-alone", "4", "--taus", "0.02", "--prices", "1", "--max-new-tokens", "120",
            "--features", "entropy,left", "--sessions", "2", "--latency", str(folder / "latency.json"),
            "--work", str(folder / "work"), "--out", str(folder / "head"),
        ]
        # fmt: on

    def start(self) -> Process:
        with (self.folder / "log").open("ab") as log:
            return spawn_forked(self._command, {"PYTHONWARNINGS": "ignore"}, log)

    def has_reached(self, stage: str) -> bool:
        """Whether this stage, or one after it, has written something."""
        work = self.folder / "work"
        paths = [work / each for each in STAGES[STAGES.index(stage) :]]
        return any(path.exists() and path.stat().st_size for path in paths)

    def wait_for(self, process: Process, stage: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.has_reached(stage):
            assert process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.002)

    def finish(self, process: Process) -> Head:
        assert process.wait(PATIENCE_S) == 0, self.log()
        return Head.from_bytes((self.folder / "head" / "head.safetensors").read_bytes())

    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    def curves(self) -> list[str]:
        return (self.folder / "work" / "log.jsonl").read_text().splitlines()

    def killed_at(self, stages: Sequence[str]) -> Head:
        """Kills it at each of the stages, starts it again each time, and lets it end."""
        for stage in stages:
            process = self.start()
            self.wait_for(process, stage)
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL, "it was over before it was killed"
        return self.finish(self.start())


def test_a_killed_trainer_worker_or_router_changes_no_bit(stack: LocalStack, tmp_path: Path) -> None:
    whole, broken = (Run(tmp_path / name, "--router", stack.router_address) for name in ("whole", "broken"))
    head = whole.finish(whole.start())
    process = broken.start()
    lost = {
        "alone.rollouts": stack.worker("slm"), "dev-0.rollouts": stack.worker("llm"), "step-1.rollouts": stack.router,
    }  # fmt: skip
    for stage, part in lost.items():
        broken.wait_for(process, stage)
        part.restart()  # the trainer waits for it
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL, "it was over before it was killed"
    assert broken.killed_at(["step-2.rollouts"]).version == head.version
    assert broken.curves() == whole.curves()


def test_a_trainer_that_is_killed_at_every_stage_makes_the_same_head(tmp_path: Path) -> None:
    whole, broken = Run(tmp_path / "whole", "--in-process"), Run(tmp_path / "broken", "--in-process")
    head = whole.finish(whole.start())
    assert broken.killed_at(STAGES).version == head.version
    assert broken.curves() == whole.curves()
