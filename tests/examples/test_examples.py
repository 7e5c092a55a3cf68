"""The programs of examples/ say what they are to say; in soak those, too, for which others' packages are fetched."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx2
import pytest

from evals.clients.examples import EXAMPLES, Bench, Example, markdown
from evals.clients.outcomes import State
from rstitch.local.stack import LocalStack

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def bench(tiny_stack: LocalStack, http: httpx2.Client) -> Bench:
    return Bench(str(http.base_url).rstrip("/"), tiny_stack.router_address)


def named(*needs: str) -> list[object]:
    return [pytest.param(each, id=each.name) for each in EXAMPLES if each.needs in needs]


@pytest.mark.parametrize("example", named("nothing"))
def test_an_example_gives_the_answer(bench: Bench, example: Example) -> None:
    if example.client == "curl" and shutil.which("curl") is None:
        pytest.skip("there is no curl")
    outcome = bench.run(example)
    assert outcome.state is State.PASSED, outcome


@pytest.mark.parametrize("example", named("nothing"))
def test_an_example_without_its_server_fails(bench: Bench, example: Example) -> None:
    nobody = Bench("http://127.0.0.1:9", "127.0.0.1:9")
    if example.client == "curl" and shutil.which("curl") is None:
        pytest.skip("there is no curl")
    assert nobody.run(example).state is State.FAILED


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("example", named("python", "node", "go"))
def test_an_example_with_a_client_of_others_gives_the_answer(bench: Bench, example: Example) -> None:
    outcome = bench.run(example)
    if example.needs == "go" and outcome.state is State.LEFT_OUT:
        pytest.skip(outcome.note)
    assert outcome.state is State.PASSED, outcome


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_readme_tells_where_our_fields_come_through(bench: Bench) -> None:
    text = (FOLDER / "README.md").read_text()
    assert [row for row in markdown(bench.fields()) if row not in text] == []


def test_every_program_is_run_and_named_in_the_readme() -> None:
    kept = {
        str(path.relative_to(FOLDER))
        for path in [*FOLDER.glob("*.*"), *FOLDER.glob("go/*")]
        if path.suffix in (".py", ".mjs", ".sh", ".go")
    }
    assert kept == {example.name for example in EXAMPLES}
    named_there = re.findall(r"^\| \[([\w./]+)\]", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert set(named_there) == kept


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_says_in_its_head_how_to_run_it(example: Example) -> None:
    lines = (FOLDER / example.name).read_text().splitlines()
    head = lines[1] if lines[0].startswith("#!") else lines[0]
    assert re.match(r"(#|//) .*\. Run: .+", head)
    assert Path(example.name).name in head or example.needs == "go"
