"""What decides a model's tokens beside its tokenizer, as one word: workers with the same one write the same answers.

It is of the model's files and of how they are served, and not of the tensors in memory: these lie differently once they
are fused, quantized, captured or spread over cards, which changes no token. It knows no engine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from model_worker.engine.forward.loader import LoadedModel, check_source
from model_worker.engine.forward.rope import has_long_angles

# Of an array so many stretches of so many bytes are looked at, evenly spaced; of a smaller one everything: training
# that goes on changes nearly all weights.
_NUM_STRETCHES, _STRETCH_BYTES = 64, 64
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# What files of one model say in different ways: who wrote them, and what --dtype says better.
_BESIDE_THE_POINT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


@dataclass(frozen=True, slots=True)
class Served:
    """How a model's files are served, as far as it changes tokens."""

    quantize: str
    random_weights: int | None  # the seed of weights that are no file's


def weights_fingerprint(model: str, loaded: LoadedModel, served: Served) -> str:
    """Returns the SHA-256, hex, of config, dtype, quantization, stop tokens and weights.

    Of each array these are name, shape, type and evenly spaced samples. Empty if the weights are in no file that is
    known here.
    """
    source = check_source(model)
    digest = hashlib.sha256()
    config = loaded.module.config.get_text_config()
    told = {
        "config": _config(Path(str(cached_file(source, "config.json")))),
        "dtype": str(loaded.dtype),
        "quantize": served.quantize,
        "stop_tokens": sorted(loaded.stop_tokens),
        "long_angles": has_long_angles(config, loaded.context_length),
    }
    if served.random_weights is not None:  # a seed is for one kind of device
        drawn_on = "cpu" if loaded.num_parameters else loaded.device.type  # a part's whole is drawn on the host
        told |= {"seed": served.random_weights, "device": drawn_on}
    digest.update(_json(told))
    if served.random_weights is None:
        files = _files(source)
        if not files:
            return ""
        _add(digest, files)
    return digest.hexdigest()


def shared_fingerprint(whole: str, files: tuple[Path, Path]) -> str:
    """Returns that of the SLM in a model with shared layers: the whole model's, and what is the SLM's alone."""
    digest = hashlib.sha256(whole.encode())
    config, weights = files
    digest.update(_json(_config(config)))
    _add(digest, [weights])
    return digest.hexdigest()


def _config(file: Path) -> Any:
    return _without(json.loads(file.read_text("utf-8")))


def _without(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _without(value) for name, value in config.items() if name not in _BESIDE_THE_POINT}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _files(source: str) -> list[Path]:
    """Finds the files of a model's weights: one, or those of its index."""
    if (one := _found(source, _WEIGHTS)) is not None:
        return [one]
    if (index := _found(source, _INDEX)) is None:
        return []
    names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    found = [_found(source, name) for name in names]
    return [file for file in found if file is not None]


def _found(source: str, name: str) -> Path | None:
    file = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if file is None else Path(str(file))


def _add(digest: Any, files: list[Path]) -> None:
    """Adds all arrays of safetensors files in order of their names, however they are spread over the files."""
    arrays = sorted(
        ((name, said, file, start) for file in files for name, said, start in _arrays(file)), key=lambda each: each[0]
    )
    opened: dict[Path, int] = {}
    try:
        for name, said, file, start in arrays:
            digest.update(_json([name, said["dtype"], said["shape"]]))
            if file not in opened:
                opened[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            begin, end = said["data_offsets"]
            for offset, length in _stretches(end - begin):
                digest.update(os.pread(opened[file], length, start + begin + offset))
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _arrays(file: Path) -> Iterator[tuple[str, Any, int]]:
    """Yields each array of a safetensors file: its name, what the head says of it, and where the data begin."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        head = json.loads(opened.read(size))
    for name, said in head.items():
        if name != "__metadata__":
            yield name, said, 8 + size


def _stretches(num_bytes: int) -> Iterator[tuple[int, int]]:
    if num_bytes <= _NUM_STRETCHES * _STRETCH_BYTES:
        yield 0, num_bytes
        return
    last = num_bytes - _STRETCH_BYTES
    for number in range(_NUM_STRETCHES):
        yield last * number // (_NUM_STRETCHES - 1), _STRETCH_BYTES
