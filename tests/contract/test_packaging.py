"""What `pip install` of this repository puts into others' site-packages: `rstitch` and nothing beside it."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_only_rstitch_is_installed() -> None:
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    top_level = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {"rstitch", "evals", "router_svc"} <= top_level
    assert {name for name in top_level if any(fnmatch.fnmatch(name, glob) for glob in find["include"])} == {"rstitch"}


def test_whoever_installs_the_folder_gets_the_rest_by_the_path() -> None:
    for name in ("Makefile", "deploy/Dockerfile"):
        text = (ROOT / name).read_text()
        assert text.count("editable_mode=compat") == text.count("-e '.[dev]'") + text.count("--editable ."), name
