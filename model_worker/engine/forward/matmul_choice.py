"""Whether the matrix products of a model are torch's or those of our own kernel, and how the model comes to call them.

What is compiled calls them as one opaque operation, `rstitch::linear`, which compiled.py defines.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.matmul_native import NativeMatmul
from model_worker.engine.forward.quantizing import is_plain
from model_worker.engine.forward.replaced import is_replaced, replace_forward

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Multiplications from which on the kernel pays for the way to it, some 20 us of Python, and twice that from compiled
# code: `bench products` shows them.
_LEAST = 1 << 17
_COUNTS = (1, 4, 32)  # rows that are tried: one session, several, a piece of a prompt
_DECODING = 4
_REPEATS = 5
_MOST_WEIGHTS = 1 << 20  # that a trial multiplies with, so that a start pays some tens of milliseconds


@dataclass(frozen=True, slots=True)
class Matmul:
    """How a model multiplies: `native` up to `most_rows` rows (None: any number), torch's own product beyond.

    Torch's, too, where there is little to do: less than `least` multiplications.
    """

    native: Product | None = None
    most_rows: int | None = None
    least: int = 0
    why: str = ""  # why not `native`; empty where it is not for this model

    def __str__(self) -> str:
        """Says what differs from a model that nobody touched; empty if nothing does."""
        if self.native is None:
            return f"torch, as {self.why}" if self.why else ""
        return "native" if self.most_rows is None else f"native up to {self.most_rows} rows"

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns what torch's `linear` does, up to rounding."""
        if self.native is not None and x.dtype == weight.dtype == torch.bfloat16:
            most, (outputs, inputs) = self.most_rows, weight.shape
            if (most is None or x.numel() <= most * inputs) and x.numel() * outputs >= self.least:
                return self.native(x, weight, bias)
        return nn.functional.linear(x, weight, bias)

    def is_opaque(self, weight: Tensor) -> bool:
        """Says whether compiled code calls out for its products with a weight, whatever the number of rows."""
        return self.native is not None and weight.numel() >= 2 * self.least

    def put_into(self, module: nn.Module) -> None:
        """Makes all plain linear layers of a module multiply so, but those that something else was done to."""
        if self.native is None:
            return
        for part in module.modules():
            if is_plain(part) and part.weight.dtype == torch.bfloat16 and not is_replaced(part):
                replace_forward(part, functools.partial(_forward, self, part))


def _forward(matmul: Matmul, part: nn.Linear, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        product = torch.ops.rstitch.linear if matmul.is_opaque(part.weight) else nn.functional.linear
        made: Tensor = product(x, part.weight, part.bias)
        return made
    return matmul(x, part.weight, part.bias)


def choose_matmul(module: Any, wish: Literal["auto", "native", "torch"], *, whole: bool) -> Matmul:
    """Chooses for a model.

    "auto" takes the kernel for bfloat16 on a CPU, where it was faster here in a short trial and there is enough to do.
    With `whole`, it takes it for everything, since a row's result must depend neither on the number of rows nor on a
    trial. Raises UnsupportedModel if it is "native" and cannot be.
    """
    weights = [part.weight for part in module.modules() if is_plain(part)]
    largest = max(weights, key=Tensor.numel, default=None)
    if wish == "torch":
        return Matmul()
    if reason := _why_not(largest):
        if wish == "native":
            raise UnsupportedModel(f"native matrix products are not for this model: {reason}; leave --matmul at auto")
        return Matmul()
    assert largest is not None
    try:
        native = NativeMatmul()
    except UnsupportedModel as error:
        if wish == "native":
            raise
        if whole:
            raise UnsupportedModel(
                f"--batch-invariant: {error}; with --matmul torch it goes without, in every worker alike"
            ) from error
        return Matmul(why=str(error))
    if wish == "native" or whole:  # a trial may end otherwise in a worker that comes back
        return Matmul(native)
    shares = _trial(native, largest)
    most = 0
    for count, share in shares.items():
        if share < 1:
            most = count
        elif count >= _DECODING:  # a single row may lose a little
            break
    if not most:
        return Matmul(why=f"native takes {shares[_DECODING]:.2f} times as long here")
    return Matmul(native, None if most == max(_COUNTS) else most, _LEAST)


def _why_not(weight: Tensor | None) -> str:
    if weight is None:
        return "it has no plain linear layer"
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return f"they are for bfloat16 on a CPU, not for {weight.dtype} on {weight.device}"
    return ""


@torch.inference_mode()
def _trial(native: Product, weight: Tensor) -> dict[int, float]:
    """Returns the time of the kernel over that of torch's product, by number of rows."""
    inputs = weight.shape[1]
    weight = weight[: max(1, _MOST_WEIGHTS // inputs)]
    shares = {}
    for count in _COUNTS:
        x = torch.ones(count, inputs, dtype=torch.bfloat16)
        times: dict[Product, list[float]] = {native: [], nn.functional.linear: []}
        for _ in range(_REPEATS):
            for product, seconds in times.items():
                begin = time.perf_counter()
                product(x, weight, None)
                seconds.append(time.perf_counter() - begin)
        ours, torchs = (min(seconds) for seconds in times.values())
        shares[count] = ours / torchs
    return shares
