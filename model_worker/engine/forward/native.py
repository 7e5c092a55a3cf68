"""Builds the C++ beside it with the machine's own compiler, once, and loads it. It knows nothing of what that computes.

The library is kept in the user's cache under a name made of the source, the flags, the compiler and the processor, so
that a change of any of them builds another one. Nothing of torch's is compiled in: a build takes seconds.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from model_worker.engine.forward.code_cache import cache_folder, is_kept, keep, make_folder

_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fno-trapping-math", "-fno-math-errno")
# Sums may be vectorized; unlike -ffast-math this keeps infinities and NaN what they are.
REORDERED_SUMS = ("-fassociative-math", "-fno-signed-zeros")
# A sum is computed as it is written, in every instance of a template.
WRITTEN_SUMS = ("-fno-associative-math", "-ffp-contract=off")
_COMPILERS = ("c++", "g++", "clang++")
_TIMEOUT_S = 120


class BuildFailed(Exception):
    """There is no compiler here, or it does not build the source; the message says why."""


@functools.cache
def load_native(source: Path, sums: tuple[str, ...]) -> ctypes.CDLL:
    """Returns the library of a C++ file. Raises BuildFailed if it cannot be built or loaded here.

    `sums` is REORDERED_SUMS or WRITTEN_SUMS.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise BuildFailed(f"no C++ compiler ({', '.join(_COMPILERS)}); install one, or name it in CXX")
    try:
        library = _built(source, (compiler, *_FLAGS, *sums))
        try:
            return ctypes.CDLL(str(library))
        except OSError:  # of another system, or cut short
            library.unlink()
            return ctypes.CDLL(str(_built(source, (compiler, *_FLAGS, *sums))))
    except OSError as error:  # a folder that cannot be written, or that others can write to
        raise BuildFailed(f"{compiler}: {error}") from error
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or "").strip().splitlines() or [str(error)]
        raise BuildFailed(f"{compiler}: {said[-1]}") from error


def _built(source: Path, command: tuple[str, ...]) -> Path:
    version = subprocess.run([command[0], "--version"], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    parts = (source.read_text(), *command, version.stdout, processor())
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = cache_folder() / f"{source.stem}-{name}.so"
    if is_kept(library):
        return library
    make_folder(library)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        subprocess.run(
            [*command, "-o", str(made), str(source)], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        keep(made, library)
    return library


def processor() -> str:
    """Says for which processor -march=native builds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
