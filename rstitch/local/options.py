"""What a local stack is told of its parts: values that become their command lines. They start nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ROUTER_MODULE = "router_svc"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker is started.

    Attributes:
        model: folder or hub id; None: the bundled tiny model of the role.
        device: `cpu` or `cuda:N`.
        dtype: None: float32 on CPU, auto on CUDA.
        threads: CPU threads; None: RSTITCH_THREADS, else half of the machine's.
        args: more flags.
    """

    model: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    threads: int | None = None
    args: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """How the router is started.

    Attributes:
        port: 0: a free one.
        module: what is run as the router.
        args: more flags.
    """

    port: int = 0
    module: str = ROUTER_MODULE
    args: Sequence[str] = ()
