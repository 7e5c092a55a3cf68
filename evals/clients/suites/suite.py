"""What suites share: a place before a gateway, an environment of a file of requirements, ten questions with answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.clients.environments import CACHE, path_with, python_environment
from evals.clients.outcomes import Outcome, Ran, State, run_program
from evals.tasks.data import load_data
from evals.tasks.task import load

_REQUIREMENTS = Path(__file__).parents[1] / "requirements"
TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a suite runs: the gateway's http://HOST:PORT, its own folder, and its programs."""

    http: str
    folder: Path
    programs: Path

    def run(self, command: Sequence[str], **env: str) -> Ran:
        """Runs a program of the suite's environment, which is told that no hub can be reached."""
        told = {"PATH": path_with(self.programs), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none", **env}
        return run_program(command, told, self.folder, TIMEOUT_S)

    def outcome(self, name: str, distribution: str, ran: Ran, *, passed: bool, note: str) -> Outcome:
        """Says how it went; what the program wrote lies beside it, for whoever looks for the reason."""
        log = self.folder / "log.txt"
        log.write_text(ran.output + ran.errors)
        code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        version = self.run(["python", "-c", code]).output.strip()
        told = note if passed else f"{note or ran.ended} ({log.relative_to(CACHE.parent.parent)})"
        return Outcome(name, f"{distribution} {version}", State.PASSED if passed else State.FAILED, told)


def place(http: str, name: str) -> Place:
    """Makes the environment that requirements/NAME.txt says, and a folder to run in. Raises: Unavailable."""
    programs = python_environment(name, _REQUIREMENTS / f"{name}.txt")
    folder = CACHE / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return Place(http, folder, programs)


def write_questions(path: Path, num: int = 10) -> None:
    """Writes questions of the tiny domain and their answers, each a line of JSON."""
    problems = load_data(load("tiny"), split="dev", n=num).problems
    path.write_text(
        "".join(json.dumps({"question": each.prompt, "answer": each.reference}) + "\n" for each in problems)
    )


def first(pattern: str, text: str, default: str = "") -> str:
    """Gives the first group of the first match."""
    match = re.search(pattern, text)
    return match[1] if match else default
