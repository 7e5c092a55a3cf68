"""How a function is captured: run once, and then repeated on the same tensors without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

Body = Callable[[], None]


class Capture(Protocol):
    """Captures the functions of one engine, one after another."""

    def run(self, body: Body) -> None:
        """Runs a function as it will be captured, so that what is allocated, tuned or compiled at a first call is."""

    def record(self, body: Body) -> Body:
        """Captures a function that has run before; returns what repeats it."""


class Repeat:
    """Stands in for a capture where there is none: what repeats a function is the function itself."""

    def run(self, body: Body) -> None:
        body()

    def record(self, body: Body) -> Body:
        return body


class CudaCapture:
    """Captures CUDA graphs, which share one pool of memory: no two of them are ever replayed at once."""

    # One stream, on this device, for running and recording. Without one torch records on a stream that it keeps per
    # process, of the device of the first capture; and what cuBLAS keeps per stream would first be made in a capture.

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, body: Body) -> None:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            body()
        current.wait_stream(self._stream)

    def record(self, body: Body) -> Body:
        graph = torch.cuda.CUDAGraph()
        # What other threads ask a device is no part of the capture, and must not end it: NCCL's asks for its events.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            body()
        return graph.replay
