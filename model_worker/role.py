"""What distinguishes the two workers. It knows nothing of what a worker does."""

from __future__ import annotations

from dataclasses import dataclass

from model_worker.settings import WorkerSettings
from rstitch.v1 import common_pb2


@dataclass(frozen=True, slots=True)
class Role:
    """All that distinguishes the two workers: the same program serves both."""

    name: str
    model: common_pb2.Model
    settings: type[WorkerSettings]
