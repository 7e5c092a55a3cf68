"""What `pip install` of this repository puts into others' site-packages: `rstitch` and nothing beside it."""

from __future__ import annotations

import fnmatch
import re
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


def test_images_are_made_of_what_is_there() -> None:
    """Whatever is copied exists and is sent to the builder; whatever an image or a service starts is copied."""
    sent = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M))
    stages = re.split(r"^FROM ", (ROOT / "deploy/Dockerfile").read_text(), flags=re.M)[1:]
    copied: dict[str, set[str]] = {}
    for stage in stages:
        lines = re.findall(r"^COPY (?!--from)(.+) \S+$", stage, re.M)
        sources = {source for line in lines for source in line.split()}
        assert all((ROOT / source).exists() for source in sources)
        assert {source.partition("/")[0] for source in sources} <= sent
        copied[re.findall(r"^\S+ AS (\S+)", stage)[0]] = sources
        for module in re.findall(r'"-m", "(\w+)"', stage):
            assert {module, "rstitch"} <= sources
    services = re.findall(r'"-m", "(\w+)"', (ROOT / "compose.yaml").read_text())
    assert {"slm_worker", "llm_worker"} <= set(services)
    assert set(services) <= copied["worker"] | copied["router"] | copied["gateway"]
    # What each service imports of ours.
    assert {"slm_worker", "llm_worker", "model_worker", "fleet", "storage", "rstitch"} <= copied["worker"]
    assert {"router_svc", "fleet", "storage", "rstitch"} <= copied["router"]
    assert {"gateway", "rstitch"} == copied["gateway"] & {"gateway", "rstitch", "router_svc", "model_worker"}
