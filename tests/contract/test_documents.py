"""What the documents and the compose files say is what the code has: modules, settings, variables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from model_worker.settings import WorkerSettings
from router_svc.settings import RouterSettings

ROOT = Path(__file__).parents[2]
PACKAGES = ("rstitch", "model_worker", "slm_worker", "llm_worker", "router_svc", "evals", "training")
COMPOSE_FILES = ("compose.yaml", "compose.cpu.yaml")


def variables(settings: type[BaseSettings]) -> set[str]:
    return {f"RSTITCH_{name.upper()}" for name in settings.model_fields}


def folders() -> set[str]:
    return {
        f"{path.parent.relative_to(ROOT)}/" for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")
    }


def test_architecture_has_a_line_for_each_folder() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"^\| `([\w/]+/)` \|", text, flags=re.MULTILINE))
    assert named == folders()


@pytest.mark.parametrize("settings", [WorkerSettings, RouterSettings])
def test_operations_has_a_row_for_each_setting(settings: type[BaseSettings]) -> None:
    text = (ROOT / "docs/operations.md").read_text()
    rows = set(re.findall(r"^\| `--([\w-]+)` \|", text, flags=re.MULTILINE))
    assert {name.replace("_", "-") for name in settings.model_fields} <= rows


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_sets_variables_that_are_read(name: str) -> None:
    text = (ROOT / name).read_text()
    used = set(re.findall(r"^ +(RSTITCH_\w+):", text, flags=re.MULTILINE))
    assert used
    assert used <= variables(WorkerSettings) | variables(RouterSettings)


def test_env_example_names_what_compose_asks_for() -> None:
    asked = {match for name in COMPOSE_FILES for match in re.findall(r"\$\{(\w+)[:-]", (ROOT / name).read_text())}
    named = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))
    assert asked - {"VERSION"} == named


def test_env_example_says_the_defaults() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name, value in re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), flags=re.MULTILINE):
        defaults = set(re.findall(r"\$\{" + name + r":?-([^}]*)\}", text))
        assert defaults == {value}, name
