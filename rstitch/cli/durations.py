"""Times as people write them on a command line: `60`, `60s`, `2m`, `1h`. It knows no command."""

from __future__ import annotations

import re

from rstitch.errors import invalid

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(flag: str, text: str) -> float:
    """Reads a time. Raises: RstitchError naming the flag if it is none, or nothing."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", text.strip())
    if found is None or not (value := float(found[1]) * _SECONDS[found[2] or ""]):
        raise invalid(flag, f"{text!r} is no time.", "Write 60s, or 2m; a number alone is seconds.")
    return value
