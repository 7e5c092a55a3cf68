"""What a local stack is told of its parts: values that become their command lines. They start nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ROUTER_MODULE = "router_svc"
Role = Literal["slm", "llm"]


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker is started."""

    model: str | None = None  # folder or hub id; None: the bundled tiny model of the role
    device: str = "cpu"  # or `cuda:N`; several with commas, for workers that take turns
    dtype: str | None = None  # None: float32 on CPU, auto on CUDA
    # Of the CPU; None: RSTITCH_THREADS, else half of the machine's, and all while the other worker rests.
    threads: int | None = None
    batch_invariant: bool = False  # the same tokens alone and in any batch, bit for bit
    args: Sequence[str] = ()  # more flags


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """How the router is started."""

    port: int = 0  # 0: a free one
    module: str = ROUTER_MODULE
    args: Sequence[str] = ()  # more flags


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How the HTTP gateway is started."""

    listen: str = ""  # HOST:PORT; "": a free port of 127.0.0.1
    served_model_names: Sequence[str] = ()  # further names of the model `rstitch`
    args: Sequence[str] = ()  # more flags
