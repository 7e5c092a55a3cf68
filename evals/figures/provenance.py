"""Where a figure comes from: commit, machine, command. Every table and plot carries it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COPIES = ("--json", "--plot", "--out")


def provenance() -> dict[str, str]:
    """Commit (with + if the tree was changed), machine, versions, command and day."""
    return {
        "commit": _git("rev-parse", "--short=10", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "machine": f"{os.cpu_count()} cores, {_cpu()}",
        "python": platform.python_version(),
        "command": " ".join(["python", "-m", *_module(), *_without_files(sys.argv[1:])]),
        "day": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def line(facts: dict[str, str]) -> str:
    """The facts as one line of Markdown."""
    return (
        f"`{facts['command']}` at commit `{facts['commit']}`, {facts['day']}, {facts['machine']}, "
        f"Python {facts['python']}."
    )


def _without_files(arguments: list[str]) -> list[str]:
    """Where copies of the figures went says nothing of them; of a path on one machine the name is kept."""
    kept: list[str] = []
    for index, argument in enumerate(arguments):
        follows = index > 0 and arguments[index - 1] in _COPIES and not argument.startswith("-")
        if not follows and argument.partition("=")[0] not in _COPIES:
            kept.append(Path(argument).name if Path(argument).is_absolute() else argument)
    return kept


def _module() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [spec.name.removesuffix(".__main__")] if spec is not None else [Path(sys.argv[0]).name]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("unknown" if arguments[0] == "rev-parse" else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")), platform.machine())
