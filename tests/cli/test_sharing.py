"""What the local stack tells its workers when both are on one GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from rstitch.local.stack import LocalStack


@pytest.mark.parametrize("role", ["slm", "llm"])
def test_only_workers_on_one_gpu_share_it(role: str, tmp_path: Path) -> None:
    for devices in ({"device": "cpu"}, {"slm_device": "cuda:0", "llm_device": "cuda:1"}):
        assert LocalStack(**devices)._sharing_args(role) == []
    for devices in ({"device": "cuda:0"}, {"slm_device": "cuda", "llm_device": "cuda:0"}):
        stack = LocalStack(slm_model="small", llm_model="large", **devices)
        stack.folder = tmp_path
        other = "large" if role == "slm" else "small"
        assert stack._sharing_args(role) == ["--beside", other, "--share-device", str(tmp_path / "device")]
