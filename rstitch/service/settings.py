"""What the services' settings share: how a bad one is explained, and names that were renamed."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

from pydantic import ValidationError


def explain(program: str, error: ValidationError) -> str:
    """One line per setting at fault, naming its flag and its environment variable."""
    lines = [f"{program}: cannot start:"]
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "settings"
        remedy = "; write on or off" if item["type"] == "bool_parsing" else ""
        lines.append(f"  --{name.replace('_', '-')} (or {_variable(name)}): {item['msg']}{remedy}")
    return "\n".join(lines)


def with_new_names(
    renamed: Mapping[str, str], arguments: Sequence[str], environment: MutableMapping[str, str]
) -> tuple[list[str], list[str]]:
    """Accepts old words of flags and environment variables (`renamed`: old to new, such as `some-name`) for a release.

    Returns the arguments with new names, and a sentence about each old one given; `environment` is changed in place.
    """
    told = []
    given = list(arguments)
    for old, new in renamed.items():
        for index, argument in enumerate(given):
            flag, equals, value = argument.partition("=")
            if flag == f"--{old}":
                given[index] = f"--{new}{equals}{value}"
                told.append(f"--{old} is now --{new}; the old name goes with the next release")
        if _variable(old) in environment:
            environment.setdefault(_variable(new), environment.pop(_variable(old)))
            told.append(f"{_variable(old)} is now {_variable(new)}; the old name goes with the next release")
    return given, told


def _variable(name: str) -> str:
    return f"RSTITCH_{name.replace('-', '_').upper()}"
