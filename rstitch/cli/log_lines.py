"""Log lines of the services, made readable. It knows their JSON keys, not what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

_NOT_FOR_PEOPLE = {"event", "level", "timestamp", "service", "exception"}


def readable(line: str) -> str:
    """Turns a JSON log line into a sentence; a line that is no JSON object stays as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    facts = [f"{key}={value}" for key, value in entry.items() if key not in _NOT_FOR_PEOPLE]
    told = ": ".join(filter(None, [entry.get("level"), entry["event"], ", ".join(facts)]))
    return "\n".join(filter(None, [told, entry.get("exception")]))


def timed(line: str) -> str:
    """Turns a JSON log line into its local time and its sentence; a line that is no JSON object stays as it is."""
    told = readable(line)
    if told == line:
        return line
    try:
        when = datetime.fromisoformat(json.loads(line)["timestamp"])
    except (KeyError, TypeError, ValueError):
        return told
    return f"{when.astimezone():%T}  {told}"


def last_lines(lines: Iterable[str], at_most: int) -> list[str]:
    """Gives the last lines in readable form; a line that was repeated comes once."""
    seen = dict.fromkeys(readable(line) for line in reversed(list(lines)))
    return list(seen)[:at_most][::-1]
