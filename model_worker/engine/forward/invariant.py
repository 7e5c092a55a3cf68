"""Makes a model's result for a token independent of the other tokens of the batch, bit for bit: `--batch-invariant`.

Floating-point sums depend on their order, and fast kernels choose the order by the shape of the whole batch: a token
then gets other last bits beside others than alone, and in 16 bits soon another successor. (He and Thinking Machines
Lab, "Defeating Nondeterminism in LLM Inference", 2025, whose remedy this is: one order per row, whatever the batch.)

The transformers model stays what it is; the modules whose sums or vector tails would depend on the batch are called
through one of the functions below. What cannot be made so is refused, and invariant_check.py tries the result out.
"""

# What varies on a CPU, and what is done about it:
#
#   a matrix product    another kernel for few rows, other edges for odd numbers    in bfloat16 a kernel of our own;
#                       of rows, another share per thread                           else only row counts that were found
#                                                                                   to agree; others are padded or cut
#   silu, gelu, ...     vectors compute exp otherwise than the scalar rest, and     pieces of whole vectors, too small
#                       threads cut a large tensor anywhere                         to be shared among threads
#   rope                likewise, in sin and cos                                    one table for all positions
#   attention           by number of queries and keys                               invariant_attention.py
#   a norm              no                                                          (on CUDA: one program a row)

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers.activations
from torch import Tensor, nn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.matmul_choice import Matmul
from model_worker.engine.forward.quantizing import is_quantized
from model_worker.engine.forward.replaced import is_replaced, replace_forward

# Row counts of a matrix product that are tried. Padding costs at most a quarter of a product, and from 32 rows on a CPU
# gains nothing by more.
_COUNTS = (*range(1, 17), 20, 24, 28, 32)
_GRAIN = 32768  # torch shares elementwise work among threads from so many elements on
_WIDEST_VECTOR = 64  # elements, unrolled, of any CPU's
_REMEDY = "start without --batch-invariant"
_ACTIVATIONS = (nn.modules.activation.__name__, transformers.activations.__name__)

Forward = Callable[..., Any]


def make_invariant(module: Any, context_length: int, matmul: Matmul) -> None:
    """Swaps how the parts of a transformers model are called, once; positions are below `context_length`.

    Linear layers are left to `matmul` where that is our own kernel's, for any number of rows.

    Raises UnsupportedModel, naming the part, if one computes in a way that cannot be made invariant.
    """
    name, on_cpu = type(module).__name__, next(module.parameters()).device.type == "cpu"
    _refuse_other_products(module, name)
    counts: dict[Any, tuple[int, ...]] = {}
    for path, part in module.named_modules():
        if is_replaced(part):  # shared with a model that was made invariant before
            continue
        swapped: Forward | None = None
        if type(part) is nn.Linear:
            if matmul.native is None or part.weight.dtype != torch.bfloat16:
                swapped = _cpu_product(part, counts) if on_cpu else _cuda_product(part)
        elif "RotaryEmbedding" in type(part).__name__:
            swapped = _tabled_rope(part, f"{name}.{path}", context_length)
        elif on_cpu and type(part).__module__ in _ACTIVATIONS:
            swapped = functools.partial(_in_pieces, part.forward)
        elif not on_cpu and type(part).__name__.endswith("RMSNorm"):
            swapped = row_norm(part, f"{name}.{path}")
        if swapped is not None:
            replace_forward(part, swapped)


def _refuse_other_products(module: Any, name: str) -> None:
    for path, part in module.named_modules():
        if is_quantized(part):
            raise UnsupportedModel(
                f"{name}: {path} has quantized weights, whose products depend on the rest of a batch; {_REMEDY}, or "
                "without quantized weights"
            )
        if type(part) is nn.Linear or isinstance(part, nn.Embedding):
            continue
        own = dict(part.named_parameters(recurse=False))
        wide = [key for key, parameter in own.items() if parameter.ndim > 1]
        if wide or isinstance(part, nn.Linear):
            raise UnsupportedModel(
                f"{name}: {path}{f'.{wide[0]}' if wide else ''} is no plain nn.Linear, so its result for a token may "
                f"depend on the rest of a batch; {_REMEDY}"
            )


def _cpu_product(part: nn.Linear, known: dict[Any, tuple[int, ...]]) -> Forward:
    weight, bias, linear = part.weight, part.bias, nn.functional.linear
    kind = (weight.shape, weight.stride(), bias is not None)
    if kind not in known:
        known[kind] = agreeing_counts(functools.partial(linear, weight=weight, bias=bias), weight)
    counts = known[kind]
    out_features, in_features = weight.shape
    # The smallest count that has room, by number of rows.
    fitting = [0, *(next(count for count in counts if count >= num) for num in range(1, counts[-1] + 1))]

    def padded(piece: Tensor) -> Tensor:
        num, count = len(piece), fitting[len(piece)]
        if count != num:
            piece = torch.cat([piece, piece.new_zeros(count - num, in_features)])
        return linear(piece, weight, bias)[:num]

    def product(x: Tensor) -> Tensor:
        rows = x.reshape(-1, in_features).contiguous()
        num = rows.shape[0]
        if num > counts[-1]:
            out = torch.cat([padded(piece) for piece in rows.split(counts[-1])])
        else:
            out = linear(rows, weight, bias) if fitting[num] == num else padded(rows)
        return out.view(*x.shape[:-1], out_features)

    return product


@torch.inference_mode()
def agreeing_counts(product: Callable[[Tensor], Tensor], weight: Tensor) -> tuple[int, ...]:
    """Returns the row counts, rising, for which a product [rows, in] -> [rows, out] gives every row the same bits.

    The order of a sum does not depend on the summands, so random rows show it. Where even rows of one call are treated
    differently by their place, only one row at a time is left.
    """
    generator = torch.Generator().manual_seed(0)
    largest = _COUNTS[-1]
    x = torch.randn(largest, weight.shape[1], generator=generator).to(weight.dtype)
    whole = product(x)
    if any(not torch.equal(product(x.roll(shift, 0)).roll(-shift, 0), whole) for shift in (1, largest // 2)):
        return (1,)
    return tuple(count for count in _COUNTS if torch.equal(product(x[:count]), whole[:count]))


def _in_pieces(own: Forward, x: Tensor) -> Tensor:
    """Applies an elementwise function so that each element falls into a whole vector of a piece for one thread."""
    width = x.shape[-1]
    num_rows = max(1, (_GRAIN - 1) // width) if width % _WIDEST_VECTOR == 0 else 1
    if x.numel() <= num_rows * width:
        applied: Tensor = own(x)
        return applied
    return torch.cat([own(piece) for piece in x.reshape(-1, width).split(num_rows)]).view(x.shape)


def _tabled_rope(part: nn.Module, path: str, context_length: int) -> Forward:
    """Looks a token's cosines and sines up in a table that is made once, for all positions in one call."""
    own = part.forward
    if list(inspect.signature(own).parameters)[:2] != ["x", "position_ids"]:
        raise UnsupportedModel(f"{path}: a rope that is called otherwise than by (x, position_ids); {_REMEDY}")
    tables: dict[Any, Sequence[Tensor]] = {}

    def rope(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        key = (x.dtype, args, tuple(sorted(kwargs.items())))
        if key not in tables:
            everywhere = torch.arange(context_length, device=x.device)[None]
            tables[key] = own(x, everywhere, *args, **kwargs)
        return tuple(table.index_select(1, position_ids[0]) for table in tables[key])

    return rope


def row_norm(part: nn.Module, path: str) -> Forward:
    """Returns an RMSNorm whose mean is taken by one program a row; torch's `mean` on CUDA chooses by number of rows.

    Raises UnsupportedModel if the module's result is not x / rms(x) times its weight, or one plus its weight.
    """
    weight = dict(part.named_parameters(recurse=False)).get("weight")
    eps = getattr(part, "variance_epsilon", getattr(part, "eps", None))
    if weight is not None and isinstance(eps, float):
        own = part.forward

        def normed(x: Tensor, scale: Tensor, *, late: bool) -> Tensor:
            # In float32 like the models' own; `late` says whether the weight comes after the rounding to x's dtype.
            wide = nn.functional.rms_norm(x.float(), weight.shape, None if late else scale.float(), eps)
            return scale * wide.to(x.dtype) if late else wide.to(x.dtype)

        forms: list[Forward] = [
            lambda x: normed(x, weight, late=True),
            lambda x: normed(x, 1.0 + weight.float(), late=False),
        ]
        with torch.inference_mode():
            x = torch.randn(8, *weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
            expected = own(x)
            tolerance = 4 * torch.finfo(x.dtype).eps
            for form in forms:
                if torch.allclose(form(x), expected, rtol=tolerance, atol=tolerance):
                    return form
    raise UnsupportedModel(f"{path}: a norm that is no RMSNorm of a known form; {_REMEDY}")


def _cuda_product(part: nn.Linear) -> Forward:
    try:
        from model_worker.engine.forward.kernels.invariant_matmul import invariant_matmul
    except ImportError as error:
        raise UnsupportedModel(f"--batch-invariant on CUDA needs Triton: {error}") from error

    def product(x: Tensor) -> Tensor:
        out = invariant_matmul(x.reshape(-1, x.shape[-1]), part.weight, part.bias)
        return out.view(*x.shape[:-1], out.shape[1])

    return product


def at_least_two(logits: Tensor) -> Tensor:
    """Returns logits [n, vocab_size] with a lone row repeated: torch shares one long sum, alone, among threads."""
    return logits.expand(2, -1) if len(logits) == 1 else logits
