"""What the documents and the compose files say is what the code has: files, modules, commands, settings, figures."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from pydantic_settings import BaseSettings

from gateway.native import routes as native
from gateway.openai import routes as openai
from gateway.openai.stored import router as stored
from gateway.openai.tokens import router as tokens
from gateway.settings import GatewaySettings
from gateway.states import router as states
from model_worker.settings import WorkerSettings
from router_svc.settings import RouterSettings
from rstitch.cli.app import app
from rstitch.credentials import Credentials, variable_of

ROOT = Path(__file__).parents[2]
LIBRARIES = ("rstitch", "storage", "fleet", "model_worker")
PACKAGES = (*LIBRARIES, "slm_worker", "llm_worker", "router_svc", "gateway", "launching", "evals", "training")
ROUTES = [each for router in (states, openai.router, stored, tokens, native.router) for each in router.routes]
COMPOSE_FILES = ("compose.yaml", "compose.cpu.yaml", "compose.one-gpu.yaml", "compose.tls.yaml")


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


@pytest.mark.parametrize("settings", [WorkerSettings, RouterSettings, GatewaySettings])
def test_operations_has_a_row_for_each_setting(settings: type[BaseSettings]) -> None:
    text = (ROOT / "docs/operations.md").read_text()
    rows = set(re.findall(r"^\| `--([\w-]+)` \|", text, flags=re.MULTILINE))
    assert {name.replace("_", "-") for name in settings.model_fields} <= rows


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_sets_variables_that_are_read(name: str) -> None:
    text = (ROOT / name).read_text()
    used = set(re.findall(r"^ +(RSTITCH_\w+):", text, flags=re.MULTILINE))
    assert used
    of_health = {variable_of(field.name) for field in fields(Credentials)}
    assert used <= variables(WorkerSettings) | variables(RouterSettings) | variables(GatewaySettings) | of_health


def test_env_example_names_what_compose_asks_for() -> None:
    asked = {match for name in COMPOSE_FILES for match in re.findall(r"\$\{(\w+)[:-]", (ROOT / name).read_text())}
    named = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))
    assert asked - {"VERSION"} == named


def test_env_example_says_the_defaults() -> None:
    text = "".join((ROOT / name).read_text() for name in COMPOSE_FILES)
    for name, value in re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), flags=re.MULTILINE):
        defaults = set(re.findall(r"\$\{" + name + r":?-([^}]*)\}", text))
        assert defaults == {value}, name


def documents() -> list[Path]:
    """Every Markdown file of the repository itself."""
    folders_of_docs = (
        ROOT,
        ROOT / "docs",
        ROOT / "docs/results",
        ROOT / "examples",
        *(ROOT / "models").glob("*"),
        ROOT / "models/heads/tiny",
    )
    return sorted(path for folder in folders_of_docs for path in folder.glob("*.md"))


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        if anchor:
            assert anchor in {
                slug(heading) for heading in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            }, link


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_what_architecture_says_is_in_a_file_is_in_it() -> None:
    found = re.findall(r"`([\w.]+)` in `((?:\w+/)+\w+\.py)`", (ROOT / "docs/architecture.md").read_text())
    assert len(found) >= 6
    for name, place in found:
        text = (ROOT / place).read_text()
        assert all(re.search(rf"(class|def) {part}\b", text) for part in name.split(".")), (name, place)


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_place_that_is_named_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    named = set(re.findall(r"`((?:\w+/)+\w+\.(?:py|lua|md))`", text))
    assert named
    # Inside the life of a request the router's folder is left out.
    missing = {
        name for name in named if not any((ROOT / start / name).exists() for start in ("", "router_svc", "evals"))
    }
    assert not missing


def modules_named() -> set[str]:
    """What documents tell a reader to run. A figure names the command of its commit, which stays as it was."""
    texts = (re.sub(r".*commit `?[0-9a-f]{7,}.*", "", path.read_text()) for path in documents())
    return {module for text in texts for module in re.findall(r"python -m ([\w.]+)", text)}


@pytest.mark.parametrize("module", sorted(modules_named()))
def test_every_module_that_documents_run_is_there(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


def test_every_command_that_documents_name_is_one_of_the_command_line() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = {
        command
        for document in documents()
        for command in re.findall(
            r"(?:`|\$ |^ *|bin/)rstitch ([a-z][a-z-]*)\b", commands_of(document), flags=re.MULTILINE
        )
    }
    assert named <= known


def commands_of(document: Path) -> str:
    """Inline code and blocks, where commands stand."""
    text = document.read_text()
    return "\n".join(
        [
            *re.findall(r"```.*?```", text, flags=re.DOTALL),
            *re.findall(r"`[^`\n]+`", text),
            *re.findall(r"^    .*$", text, re.MULTILINE),
        ]
    )


def test_every_target_that_documents_name_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {target for document in documents() for target in re.findall(r"`make ([a-z-]+)", document.read_text())}
    assert named <= targets


def test_every_reason_that_troubleshooting_names_is_raised() -> None:
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+|[A-Z]{6,})`", (ROOT / "docs/troubleshooting.md").read_text())) - {
        "SERVING"
    }
    sources = "\n".join(path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    raised = set(re.findall(r'"([A-Z_]+)"', sources))
    assert named - {name for name in named if name.startswith("RSTITCH_")} <= raised


def test_the_summary_of_results_says_what_the_tables_say() -> None:
    def rows(page: str) -> dict[str, str]:
        lines = re.findall(r"^\| (`?[\w:=.,+]+`?) \| (.*)$", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)
        found: dict[str, str] = {}
        for name, rest in lines:
            found[name.strip("`")] = found.get(name.strip("`"), "") + rest
        return found

    summary, frontier, latency = rows("results.md"), rows("results/frontier.md"), rows("results/latency.md")
    systems = summary.keys() & frontier.keys() & latency.keys() - {"system"}
    assert len(systems) == 10
    for system in systems:
        said = set(re.findall(r"[\d.]+", summary[system]))
        assert said <= set(re.findall(r"[\d.]+", frontier[system] + latency[system])), system


def test_contributing_has_a_row_for_each_folder_of_tests() -> None:
    rows = re.findall(r"^\| (`tests/.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(tests/\w+)`", row)}
    assert named == {f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if any(path.glob("*.py"))}


def test_the_gateways_routes_are_named() -> None:
    text = (ROOT / "docs/http.md").read_text()
    paths = {re.sub(r"\{\w+(:path)?\}", "{id}", route.path) for route in ROUTES if route.include_in_schema}
    assert {"/health", "/v1/models/{id}"} <= paths
    assert {path for path in paths if not re.search(rf"[` ]{re.escape(path)}`", text)} == set()
