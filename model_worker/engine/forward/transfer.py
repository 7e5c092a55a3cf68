"""Numbers on their way between host and device, for which the host does not wait.

Between page-locked memory and the device the hardware copies by itself. From other memory the driver copies first, for
which it may wait until the device has done all that it was told before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# What the device was told to compute: call it once the device is done.
Later = Callable[[], T]


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Returns a host's tensor on the device; on a CPU it is the tensor itself."""
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def to_host(values: Tensor) -> Tensor:
    """Returns a tensor on the host that holds the values once the device is done; on a CPU it is the tensor itself."""
    if not values.is_cuda:
        return values
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
