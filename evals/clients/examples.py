"""`make examples`: starts the bundled pair with its gateway, runs every program of examples/, reads the answer.

A second table tells where our own fields come through in each client: examples/README.md has it, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from evals.asking.access import forget_access
from evals.clients.environments import copy_of, go_environment, node_environment, path_with, python_environment
from evals.clients.outcomes import Outcome, State, Unavailable, run_program, show
from evals.options import many
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.local.options import GatewayOptions
from rstitch.local.stack import LocalStack

# Go compiles gRPC at its first run, which takes a minute or two.
_TIMEOUT_S = 600.0
_ANSWER = "boxed{82}"
Needs = Literal["nothing", "python", "node", "go"]


def _as_it_is(output: str) -> str:
    return output


def _texts(output: str) -> str:
    """The texts of events, in which an answer may be cut anywhere."""
    return "".join(json.loads(text) for text in re.findall(r'^\s*"text": (".*"),?$', output, re.MULTILINE))


@dataclass(frozen=True, slots=True)
class Example:
    """A program of examples/, run in its folder.

    Attributes:
        version: what prints the release of the client, or the package.json that has it.
        needs: what beside our own environment must be installed.
        read: finds the answer's text in what the program writes.
    """

    name: str
    command: Sequence[str]
    client: str
    version: Sequence[str] | str
    needs: Needs = "nothing"
    read: Callable[[str], str] = _as_it_is


def _python(name: str, distribution: str, needs: Needs = "python") -> Example:
    version = ["python", "-c", f"import importlib.metadata as m; print(m.version({distribution!r}))"]
    return Example(name, ["python", name], distribution, version, needs)


def _node(name: str, package: str) -> Example:
    return Example(name, ["node", name], package, f"node_modules/{package}/package.json", "node")


_GRPC_GO = ["go", "-C", "go", "list", "-m", "-f", "{{.Version}}", "google.golang.org/grpc"]
_GO = ["bash", "-c", "cd go && buf generate ../../protos && go run ."]
EXAMPLES = (
    Example("curl.sh", ["bash", "curl.sh"], "curl", ["curl", "--version"]),
    Example("buf_curl.sh", ["bash", "buf_curl.sh"], "buf", ["buf", "--version"], read=_texts),
    _python("grpc_python.py", "grpcio-reflection", "nothing"),
    _python("openai_python.py", "openai"),
    _python("litellm_python.py", "litellm"),
    _python("langchain_python.py", "langchain-openai"),
    Example("llm.sh", ["bash", "llm.sh"], "llm", ["llm", "--version"], "python"),
    _node("openai_node.mjs", "openai"),
    _node("grpc_node.mjs", "@grpc/grpc-js"),
    Example("go/main.go", _GO, "grpc-go", _GRPC_GO, "go"),
)


class Bench:
    """The examples, copied to where they may be run, before one stack."""

    def __init__(self, http: str, router: str) -> None:
        self.folder = copy_of("examples", "protos") / "examples"
        self._env = {
            "RSTITCH_HTTP": http,
            "RSTITCH_ROUTER": router,
            # Neither fetches prices nor keeps what it is told.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LLM_USER_PATH": str(self.folder / ".llm"),
        }

    def run(self, example: Example) -> Outcome:
        """Installs what an example needs, runs it, and looks for the answer."""
        version = ""
        try:
            env = self.environment(example.needs)
            version = self._version(example, env)
            ran = run_program(example.command, env, self.folder, _TIMEOUT_S)
        except Unavailable as why:
            return Outcome(example.name, f"{example.client} {version}", State.LEFT_OUT, str(why))
        has_answer = _ANSWER in example.read(ran.output)
        state = State.PASSED if ran.code == 0 and has_answer else State.FAILED
        note = "" if state is State.PASSED else ran.ended if ran.code != 0 else "its output has no answer"
        return Outcome(example.name, f"{example.client} {version}", state, note)

    def fields(self) -> dict[str, dict[str, bool]]:
        """Measures for each client where our fields come through. Raises: Unavailable; RuntimeError if one fails."""
        told: dict[str, dict[str, bool]] = {}
        programs: tuple[tuple[Needs, list[str]], ...] = (
            ("python", ["python", "fields/python_clients.py"]),
            ("node", ["node", "fields/node_clients.mjs"]),
        )
        for needs, command in programs:
            ran = run_program(command, self.environment(needs), self.folder, _TIMEOUT_S)
            if ran.code != 0:
                raise RuntimeError(f"{command[-1]}: {ran.ended}")
            told |= json.loads(ran.output)
        return told

    def environment(self, needs: Needs) -> dict[str, str]:
        """Installs what is needed. Returns the variables to run with. Raises: Unavailable."""
        made: dict[str, str] = {"PATH": path_with()}
        if needs in ("python", "go"):
            programs = python_environment("python", self.folder / "requirements.txt")
            made["PATH"] = path_with(programs)
            if needs == "go":
                made |= go_environment(self.folder / "go", programs)
        elif needs == "node":
            node_environment(self.folder)
        return self._env | made

    def _version(self, example: Example, env: Mapping[str, str]) -> str:
        if isinstance(example.version, str):
            told: str = json.loads((self.folder / example.version).read_text())["version"]
            return told
        words = run_program(example.version, env, self.folder, _TIMEOUT_S).output.split()
        return next((word for word in words if re.match(r"v?\d+\.\d+", word)), "?")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `make examples`."""

    only: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Run these alone, such as curl.sh.", show_default="all")
    ] = many()


def run(options: Options) -> int:
    """Runs the examples and prints both tables. Returns the exit code."""
    console = Console()
    chosen = [example for example in EXAMPLES if not options.only or example.name in options.only]
    if unknown := set(options.only) - {example.name for example in chosen}:
        console.print(f"There is no {', '.join(sorted(unknown))}; there are {', '.join(e.name for e in EXAMPLES)}.")
        return 2
    forget_access()
    stack = LocalStack(gateway=GatewayOptions())
    outcomes = []
    with stopped_by_signals():
        start(stack, console)
        try:
            bench = Bench(f"http://{stack.gateway.address}", stack.router_address)
            for example in chosen:
                console.print(f"{example.name} ...")
                outcomes.append(bench.run(example))
            if not options.only:
                console.print(_table(bench.fields()))
        except Unavailable as why:
            console.print(f"Where our fields come through is not measured: {why}")
        finally:
            stack.stop()
    return show(outcomes, "examples", console)


def markdown(told: Mapping[str, Mapping[str, bool]]) -> list[str]:
    """Writes where our fields come through as rows of a Markdown table."""
    return [
        f"| {name} | {' | '.join('yes' if ok else '**lost**' for ok in at.values())} |" for name, at in told.items()
    ]


def _table(told: Mapping[str, Mapping[str, bool]]) -> Table:
    table = Table(title="where our own fields come through", title_justify="left")
    rows: list[Any] = list(told.items())
    for heading in ("client", *rows[0][1]):
        table.add_column(heading)
    for name, at in rows:
        table.add_row(name, *("yes" if ok else "[red]lost[/red]" for ok in at.values()))
    return table
