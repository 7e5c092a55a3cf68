"""A step's forward as one piece of machine code, for CPUs: the modules' Python and most small operations are gone.

The unmodified module is exported with the attention, and matrix products that are not torch's, as opaque operations;
inductor compiles the rest ahead of time (torch's AOTInductor): from ids to logits, hidden states and what is measured
of them. The numbers of tokens and of wanted distributions stay open, so one compilation serves every step, without
padding and without guards. The number of threads does not: the code's own loops are shared among as many as torch had
then, whatever a later step has (`--share-cores`); matrix products and attention go by what it has. The code is kept on
disk without weights, which it reads where the module has them.

It knows neither rows nor sessions. Which of two ways to run is faster is the runner's to measure.
"""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import matmul_choice, model, sampling
from model_worker.engine.forward.backend import AttentionBackend
from model_worker.engine.forward.code_cache import cache_folder, is_kept, keep, make_folder
from model_worker.engine.forward.dispatch import use_attention
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.matmul_choice import Matmul
from model_worker.engine.forward.native import processor
from model_worker.engine.forward.sampling import Choices, measure, unpack

_MOST_TOKENS = 1 << 20
_TRACED = 8  # tokens of the example; any number but 0 and 1 would do

# Ids and positions, int64 [1, tokens], and the places of the wanted tokens [n], to logits and hidden states [n, ...].
Forward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Choices]]


@dataclass(frozen=True, slots=True)
class Opaque:
    """What the code calls out to."""

    attention: AttentionBackend
    matmul: Matmul


# What the opaque operations call in the step that runs. An operation is the process's own, an engine is its thread's.
_running = threading.local()
_operations = torch.library.Library("rstitch", "DEF")
_operations.define("attend(Tensor query, Tensor key, Tensor value, int layer, float? scaling, Tensor? sinks) -> Tensor")
_operations.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def _attend(
    query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float | None, sinks: Tensor | None
) -> Tensor:
    opaque: Opaque = _running.opaque  # which the step has put there
    module: Any = SimpleNamespace(layer_idx=layer)
    return opaque.attention.forward(module, query, key, value, None, scaling, s_aux=sinks)[0]


def _shape_of(
    query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float | None, sinks: Tensor | None
) -> Tensor:
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    opaque: Opaque = _running.opaque
    return opaque.matmul(x, weight, bias)


def _shape_of_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


_operations.impl("attend", _attend, "CPU")
_operations.impl("linear", _linear, "CPU")
torch.library.register_fake("rstitch::attend", _shape_of, lib=_operations)
torch.library.register_fake("rstitch::linear", _shape_of_product, lib=_operations)


class _Compiled(Protocol):
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


class _Body(nn.Module):
    """What is compiled. It holds the module, so that weights are found under its names."""

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.module = module
        self._forward = forward

    def forward(self, ids: Tensor, positions: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, hidden = self._forward(ids, positions, wanted)
        return logits, hidden, measure(logits)


def compiled_step(loaded: LoadedModel, forward: Forward, opaque: Opaque, vocab_size: int, *, cached_only: bool) -> Step:
    """Returns the compiled `forward`, measuring included; compiles it if it is not on disk, which takes a minute.

    Raises UnsupportedModel if it is not on disk and `cached_only`, or if the model cannot be compiled here.
    """
    body = _Body(loaded.module, forward)
    try:
        file = cache_folder() / f"step-{_key(loaded, opaque, vocab_size)}.pt2"
        found = is_kept(file)
    except OSError as error:
        raise UnsupportedModel(str(error)) from error
    compiled = _loaded(file, body) if found else "no compiled step is kept for it; start once with --compile on"
    if isinstance(compiled, str) and not cached_only:
        try:
            _compile(body, opaque.attention, loaded, file)
        except Exception as error:  # whatever a model does that cannot be traced, or a compiler says
            said = str(error).strip().splitlines() or [""]
            raise UnsupportedModel(f"{type(error).__name__}: {said[0]}") from error
        compiled = _loaded(file, body)
    if isinstance(compiled, str):
        raise UnsupportedModel(compiled)

    def step(ids: Tensor, positions: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Choices]:
        _running.opaque = opaque
        try:
            logits, hidden, measured = compiled(ids, positions, wanted)
        finally:
            del _running.opaque
        return logits, hidden, unpack(measured, vocab_size)

    return step


def _key(loaded: LoadedModel, opaque: Opaque, vocab_size: int) -> str:
    """Names all that the code depends on. The weights are not in it, nor where they lie."""
    config = copy.deepcopy(loaded.module.config)
    config.name_or_path, config.architectures = "", None  # which a loaded model has, and one that was made has not
    parts = (
        *(
            Path(str(source)).read_text()
            for source in (__file__, model.__file__, sampling.__file__, matmul_choice.__file__)
        ),
        torch.__version__,
        transformers.__version__,
        type(loaded.module).__name__,
        config.to_json_string(use_diff=False),
        loaded.dtype,
        loaded.quantized,
        loaded.shapes,
        opaque.attention.name,
        *(opaque.matmul.native is not None, opaque.matmul.least),
        vocab_size,
        torch.get_num_threads(),  # its loops are shared among so many for ever
        processor(),
    )
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


@contextmanager
def _inductors_folder(folder: str) -> Iterator[None]:
    """Gives inductor a folder of its own: its usual one is all processes', and two that compile at once spoil it."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = folder
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _compile(body: _Body, attention: AttentionBackend, loaded: LoadedModel, file: Path) -> None:
    # Imported here: a worker that compiles nothing need not wait for it.
    from torch._inductor import aoti_compile_and_package
    from torch._inductor import config as inductor
    from torch.fx.experimental import _config as shapes

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        scaling: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        return torch.ops.rstitch.attend(query, key, value, layer, scaling, s_aux), None

    tokens, wanted = (torch.export.Dim(name, min=1, max=_MOST_TOKENS) for name in ("tokens", "wanted"))
    numbers = torch.arange(_TRACED, device=loaded.device)
    make_folder(file)
    use_attention(body.module, attend)
    try:
        # Sizes of 0 and 1 are not told apart from others, so that one code serves them all.
        with (
            warnings.catch_warnings(action="ignore"),  # torch's, of its own code
            torch.inference_mode(False),
            torch.no_grad(),
            shapes.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
            inductor.patch(compile_threads=1),
            tempfile.TemporaryDirectory(dir=file.parent) as folder,
            _inductors_folder(folder),
        ):
            program = torch.export.export(
                body,
                (numbers[None], numbers[None].clone(), numbers[: _TRACED - 3].clone()),
                dynamic_shapes=({1: tokens}, {1: tokens}, {0: wanted}),
                strict=False,
            )
            made = Path(folder) / file.name
            options = {"aot_inductor.package_constants_in_so": False}
            aoti_compile_and_package(program, package_path=str(made), inductor_configs=options)
            keep(made, file)
    finally:
        use_attention(body.module, attention.forward)


def _loaded(file: Path, body: _Body) -> _Compiled | str:
    """Loads a kept step; returns why it cannot be, such as no room where torch unpacks it, or a file cut short."""
    from torch._inductor import aoti_load_package

    try:
        with warnings.catch_warnings(action="ignore"):
            compiled: Any = aoti_load_package(str(file))
        held = dict(body.named_parameters(remove_duplicate=False)) | dict(body.named_buffers(remove_duplicate=False))
        constants = {name: held[name] for name in compiled.get_constant_fqns()}
        # "User managed": it reads the module's own tensors and copies nothing.
        compiled.load_constants(constants, check_full_update=True, user_managed=True)
    except Exception as error:  # noqa: BLE001 - torch raises whatever its loader meets; the caller tells it
        return f"{file} cannot be loaded: {error}"
    return compiled  # type: ignore[no-any-return]
