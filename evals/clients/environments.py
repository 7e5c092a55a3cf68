"""Environments for programs that we do not depend on: made below .cache once, and again when what they are of changes.

It knows how to install for Python, Node and Go, and not what for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from evals.clients.outcomes import Ran, Unavailable, run_program
from rstitch.local.part import ROOT

CACHE = ROOT / ".cache" / "clients"
_INSTALL_S = 1800.0
# So that a virtual environment gets just what its file names, whatever else this machine's pip is told to prefer.
_PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")


def python_environment(name: str, requirements: Path, *, wheels: Iterable[str] = ()) -> Path:
    """Makes a virtual environment of a file of requirements. Returns its folder of programs.

    Raises: Unavailable if something of it cannot be fetched.
    """
    folder = CACHE / name
    programs = folder / "bin"
    if _is_of(folder, requirements.read_bytes()):
        return programs
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    _done(
        run_program(
            [str(programs / "python"), *_PIP, "-r", str(requirements), *wheels], {}, requirements.parent, _INSTALL_S
        ),
        f"what {requirements.name} names cannot be installed",
    )
    _note(folder, requirements.read_bytes())
    return programs


def node_environment(folder: Path) -> Path:
    """Installs what the package-lock.json of a folder says beside it. Returns the folder. Raises: Unavailable."""
    lock = (folder / "package-lock.json").read_bytes()
    modules = folder / "node_modules"
    if not _is_of(modules, lock):
        done = run_program(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], {}, folder, _INSTALL_S)
        _done(done, "npm cannot install what package-lock.json names")
        _note(modules, lock)
    return folder


def go_environment(folder: Path, programs: Path) -> dict[str, str]:
    """Fetches what a folder's go.mod names, by the Go among `programs`. Returns variables. Raises: Unavailable."""
    home = CACHE / "go"
    env = {
        "PATH": path_with(programs),
        "GOPATH": str(home),
        "GOCACHE": str(home / "build"),
        "GOFLAGS": "-modcacherw",  # or only root could remove it
        "GOTOOLCHAIN": "local",  # fetches no other Go than this
        "CGO_ENABLED": "0",
    }
    done = run_program([str(programs / "go"), "mod", "download"], env, folder, _INSTALL_S)
    _done(done, "Go's modules cannot be fetched")
    return env


def copy_of(*names: str) -> Path:
    """Copies folders of the repository to where programs may leave things beside them. Returns the folder of both.

    What was installed there before stays.
    """
    tree = CACHE / "tree"
    for name in names:
        ignored = shutil.ignore_patterns("node_modules", "gen", "__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored, dirs_exist_ok=True)
    return tree


def path_with(*folders: Path) -> str:
    """Gives a PATH with folders before all others; our own environment's comes right behind them."""
    own = Path(sys.executable).parent
    return os.pathsep.join([*map(str, folders), str(own), os.environ.get("PATH", os.defpath)])


def _done(ran: Ran, what: str) -> None:
    if ran.code:
        raise Unavailable(f"{what}: {ran.last_words}")
    if ran.code is None:
        raise Unavailable(f"{what}: it took longer than {_INSTALL_S:.0f} s")


def _stamp(made_of: bytes) -> str:
    return hashlib.sha256(made_of + sys.version.encode()).hexdigest()


def _is_of(folder: Path, made_of: bytes) -> bool:
    stamp = folder / ".stamp"
    return stamp.is_file() and stamp.read_text() == _stamp(made_of)


def _note(folder: Path, made_of: bytes) -> None:
    (folder / ".stamp").write_text(_stamp(made_of))
