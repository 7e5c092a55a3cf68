"""What the local stack tells its workers when both are on one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rstitch.errors import RstitchError
from rstitch.local.options import Role, WorkerOptions
from rstitch.local.workers import Crew


def crew(slm: WorkerOptions, llm: WorkerOptions, num_slm: int = 1, num_llm: int = 1) -> Crew:
    return Crew({"slm": slm, "llm": llm}, {"slm": num_slm, "llm": num_llm}, shared=False)


@pytest.mark.parametrize("role", ["slm", "llm"])
def test_workers_on_the_cpu_share_cores_unless_somebody_chose_their_threads(
    role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def args(**options: Any) -> list[str]:
        return crew(WorkerOptions(**options), WorkerOptions(**options)).cores_args(role, tmp_path)

    monkeypatch.delenv("RSTITCH_THREADS", raising=False)
    assert args() == ["--share-cores", str(tmp_path / "cores")]
    assert args(threads=1) == args(device="cuda:0") == []
    monkeypatch.setenv("RSTITCH_THREADS", "1")
    assert args() == []


@pytest.mark.parametrize("role", ["slm", "llm"])
def test_only_workers_on_one_gpu_share_it(role: Role, tmp_path: Path) -> None:
    for slm, llm in (("cpu", "cpu"), ("cuda:0", "cuda:1")):
        assert crew(WorkerOptions(device=slm), WorkerOptions(device=llm)).sharing_args(role, 0, tmp_path) == []
    for slm, llm in (("cuda:0", "cuda:0"), ("cuda", "cuda:0")):
        pair = crew(WorkerOptions("small", slm), WorkerOptions("large", llm))
        other = "large" if role == "slm" else "small"
        assert pair.sharing_args(role, 0, tmp_path) == ["--beside", other, "--share-device", str(tmp_path / "device")]


def test_more_than_a_pair_share_no_cores_and_no_thread_is_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several it is not known who rests: a lock of two would be another's."""
    monkeypatch.delenv("RSTITCH_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for num_slm, num_llm, threads in ((2, 1, "2"), (2, 2, "2"), (9, 1, "1")):
        many = crew(WorkerOptions(), WorkerOptions(), num_slm, num_llm)
        assert many.cores_args("slm", tmp_path) == []
        assert many.threads("llm") == threads
    assert crew(WorkerOptions(threads=3), WorkerOptions(), 2, 2).threads("slm") == "3"


def test_of_several_workers_each_pair_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    both = WorkerOptions("model", "cuda:0,cuda:1")
    pairs = crew(both, both, 2, 2)
    shared = [pairs.sharing_args(role, index, tmp_path) for role, index in pairs.members]
    assert [args[3] for args in shared] == [str(tmp_path / f"device-{number}") for number in (0, 1, 0, 1)]
    cards = crew(both, WorkerOptions("model", "cuda:2,cuda:3"), 2, 2)
    assert [cards.sharing_args(role, index, tmp_path) for role, index in cards.members] == [[]] * 4
    with pytest.raises(RstitchError) as refused:
        crew(both, both, 2, 3).sharing_args("llm", 2, tmp_path)
    assert "cuda:0,cuda:1" in refused.value.remedy
