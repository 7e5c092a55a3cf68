"""What the local stack tells its workers when both are on one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rstitch.local.stack import LocalStack, WorkerOptions


@pytest.mark.parametrize("role", ["slm", "llm"])
def test_workers_on_the_cpu_share_cores_unless_somebody_chose_their_threads(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def args(**options: Any) -> list[str]:
        stack = LocalStack(WorkerOptions(**options), WorkerOptions(**options))
        stack.folder = tmp_path
        return stack._cores_args(role)

    monkeypatch.delenv("RSTITCH_THREADS", raising=False)
    assert args() == ["--share-cores", str(tmp_path / "cores")]
    assert args(threads=1) == args(device="cuda:0") == []
    monkeypatch.setenv("RSTITCH_THREADS", "1")
    assert args() == []


@pytest.mark.parametrize("role", ["slm", "llm"])
def test_only_workers_on_one_gpu_share_it(role: str, tmp_path: Path) -> None:
    for slm, llm in (("cpu", "cpu"), ("cuda:0", "cuda:1")):
        assert LocalStack(WorkerOptions(device=slm), WorkerOptions(device=llm))._sharing_args(role) == []
    for slm, llm in (("cuda:0", "cuda:0"), ("cuda", "cuda:0")):
        stack = LocalStack(WorkerOptions("small", slm), WorkerOptions("large", llm))
        stack.folder = tmp_path
        other = "large" if role == "slm" else "small"
        assert stack._sharing_args(role) == ["--beside", other, "--share-device", str(tmp_path / "device")]
