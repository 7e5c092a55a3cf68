"""The command that asks a head the test split, as its card prints it. It runs nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from training.head.options import Options

_STACK = ("models", "slm_model", "llm_model", "device", "slm_device", "llm_device", "dtype")


def reached_by(options: Options) -> list[str]:
    """The flags by which `rstitch eval run` asks the same pair: the running router, or what a stack is started from."""
    if options.run.router:
        return ["--router", options.run.router]
    given = {name: getattr(options.stack, name) for name in _STACK}
    if given["device"] == "cpu":
        given["device"] = None  # the default
    flags = [part for name, value in given.items() if value for part in (f"--{name.replace('_', '-')}", str(value))]
    if options.head.out.name == options.head.name and not options.head.out.as_posix().endswith(
        f"models/heads/{options.head.name}"
    ):
        flags.append(f"--router-arg=--heads={options.head.out.parent}")
    return flags


def test_command(options: Options, reached: Sequence[str], judged_by: str, data: Path | None, head: str) -> str:
    """The command line, in words of the shell.

    Args:
        reached: by `reached_by`, before a stack was started.
        judged_by: the flags of the questions' origin.
        data: the test side; None: of a task that writes its own.
        head: the policy, such as learned:mine,price=0.5.
    """
    flags = [*reached]
    if data:
        flags += ["--data", str(data)]
    if options.questions.max_new_tokens:
        flags += ["--max-new-tokens", str(options.questions.max_new_tokens)]
    systems = ["--systems", "llm_only", "slm_only", "threshold:tau=0.02", head]
    return " ".join(("rstitch eval run", judged_by, shlex.join([*flags, *systems])))
