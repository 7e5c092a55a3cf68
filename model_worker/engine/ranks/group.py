"""The ranks of a model, and what they tell and give one another. It knows no model and no step.

Two ways lead from rank to rank. Numbers that steps are made of go from rank 0 to all others over the hosts (gloo), one
broadcast each, also where tensors are on cards: who waits for the next step waits there, where no card is kept busy and
nothing ends a wait. Tensors are added up and gathered by what their device has, NCCL or gloo; these calls are part of
the forward, captured with it where steps are captured, and every rank makes them in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from model_worker.engine.errors import RanksLost

# An idle worker's ranks wait for a step as long as it takes: that one is gone shows at its process, not by a timeout.
_FOREVER = timedelta(days=3650)
# Numbers that one broadcast carries, with their count; most steps fit, longer ones take a second.
_FIRST = 2048


class Ranks(Protocol):
    """All ranks of a model, as one of them sees them. Raises RanksLost where another does not answer any more."""

    rank: int  # from 0, the one that schedules and serves
    size: int

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum of all ranks' tensors, the same bits on each; it may be the tensor itself."""
        ...

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Returns all ranks' tensors, of one shape, by rank."""
        ...

    def least(self, number: int) -> int:
        """Returns the least of all ranks' numbers."""
        ...

    def tell(self, numbers: np.ndarray) -> None:
        """Tells all others numbers, int32; for rank 0."""
        ...

    def hear(self) -> np.ndarray:
        """Waits for what rank 0 tells next; for all others."""
        ...


@contextmanager
def in_turn(ranks: Ranks) -> Iterator[None]:
    """Lets one rank after another do what all of them cannot do at once."""
    for _ in range(ranks.rank):
        ranks.least(0)
    yield
    for _ in range(ranks.size - ranks.rank):
        ranks.least(0)


class TorchRanks:
    """Ranks in processes of one machine, by torch.distributed, of which a process has one group at a time."""

    def __init__(self, rank: int, size: int, device: torch.device, meeting: Path) -> None:
        """Waits until all ranks are there. They meet by the file `meeting`, which nobody has used before."""
        self.rank, self.size = rank, size
        # Only this machine's processes are to reach these ports.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=size, timeout=_FOREVER)
        self._cards = None
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self._cards = dist.new_group(backend="nccl")
            # NCCL connects at the first call, which must not be one that is captured.
            self.sum(torch.zeros(1, device=device))

    def sum(self, tensor: Tensor) -> Tensor:
        with _telling_of_loss():
            dist.all_reduce(tensor, group=self._group(tensor))
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        tensor = tensor.contiguous()
        all_of_them = [torch.empty_like(tensor) for _ in range(self.size)]
        with _telling_of_loss():
            dist.all_gather(all_of_them, tensor, group=self._group(tensor))
        return all_of_them

    def least(self, number: int) -> int:
        least = torch.tensor(number)
        with _telling_of_loss():
            dist.all_reduce(least, dist.ReduceOp.MIN)
        return int(least)

    def tell(self, numbers: np.ndarray) -> None:
        first = torch.zeros(_FIRST, dtype=torch.int32)
        first[0] = len(numbers)
        everything = torch.from_numpy(numbers)
        most = min(len(numbers), _FIRST - 1)
        first[1 : most + 1] = everything[:most]
        with _telling_of_loss():
            dist.broadcast(first, 0)
            if most < len(numbers):
                dist.broadcast(everything[most:].contiguous(), 0)

    def hear(self) -> np.ndarray:
        first = torch.empty(_FIRST, dtype=torch.int32)
        with _telling_of_loss():
            dist.broadcast(first, 0)
            length = int(first[0])
            if length < _FIRST:
                return first[1 : length + 1].numpy()
            rest = torch.empty(length - _FIRST + 1, dtype=torch.int32)
            dist.broadcast(rest, 0)
        return torch.cat([first[1:], rest]).numpy()

    def leave(self) -> None:
        """Gives back what the group holds; the others must be gone or leave, too."""
        dist.destroy_process_group()

    def _group(self, tensor: Tensor) -> dist.ProcessGroup | None:
        return self._cards if tensor.is_cuda else None


@contextmanager
def _telling_of_loss() -> Iterator[None]:
    try:
        yield
    except torch.AcceleratorError:  # the card is lost, which its own words say better
        raise
    except RuntimeError as error:  # whatever gloo or NCCL says of a connection that is closed
        raise RanksLost(f"another rank does not answer: {error}") from error
