"""Builds the C++ beside it with the machine's own compiler, once, and loads it. It knows nothing of attention.

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

_FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp"),
    # Sums may be vectorized; unlike -ffast-math this keeps infinities and NaN what they are.
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"),
)
_COMPILERS = ("c++", "g++", "clang++")
_TIMEOUT_S = 120


class BuildFailed(Exception):
    """There is no compiler here, or it does not build the source; the message says why."""


@functools.cache
def load_native(source: Path) -> ctypes.CDLL:
    """Returns the library of a C++ file. Raises BuildFailed if it cannot be built or loaded here."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise BuildFailed(f"no C++ compiler ({', '.join(_COMPILERS)}); install one, or name it in CXX")
    try:
        library = _built(source, compiler)
        try:
            return ctypes.CDLL(str(library))
        except OSError:  # of another system, or cut short
            library.unlink()
            return ctypes.CDLL(str(_built(source, compiler)))
    except OSError as error:  # a folder that cannot be written, or that others can write to
        raise BuildFailed(f"{compiler}: {error}") from error
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or "").strip().splitlines() or [str(error)]
        raise BuildFailed(f"{compiler}: {said[-1]}") from error


def _built(source: Path, compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    parts = (source.read_text(), *_FLAGS, compiler, version.stdout, processor())
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = cache_folder() / f"{source.stem}-{name}.so"
    if is_kept(library):
        return library
    make_folder(library)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [compiler, *_FLAGS, "-o", str(made), str(source)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
        keep(made, library)
    return library


def processor() -> str:
    """Says for which processor -march=native builds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
