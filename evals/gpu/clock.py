"""Time on the device: by events around replays of a captured graph, so that launches cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

_CALLS = 10  # in a graph: its own start is shared among them


def microseconds(action: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Returns the median of a call's microseconds; on a CPU by the clock, of few calls."""
    if device.type != "cuda":
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            action()
            times.append(1e6 * (time.perf_counter() - begin))
        return median(times)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        for _ in range(2):  # compiled, and its workspaces made, before the capture
            action()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(_CALLS):
            action()
    times = []
    for _ in range(repeats):
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin_event.record()
        graph.replay()
        end_event.record()
        end_event.synchronize()
        times.append(1e3 * float(begin_event.elapsed_time(end_event)) / _CALLS)
    return median(times)


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Returns the bytes a second that a copy within the memory reads and writes."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2e6 * num_bytes / microseconds(lambda: target.copy_(source), device, 5)
