"""Flags whose values are NAME=VALUE, read one by one. It knows no command."""

from __future__ import annotations

from collections.abc import Iterable
from json import loads
from typing import Any

from rstitch.errors import invalid


def template_args(words: Iterable[str]) -> dict[str, Any]:
    """Reads NAME=VALUE; a value that is JSON is meant as such, and any other is a text."""
    made: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise invalid("--template-arg", f"{word!r} has no name and value.", "Write NAME=VALUE.")
        try:
            made[name] = loads(value)
        except ValueError:
            made[name] = value
    return made


def biases_of(words: Iterable[str]) -> dict[int, float] | None:
    """Reads TOKEN=BIAS; None where there is none. How large a bias may be, the router knows."""
    made: dict[int, float] = {}
    for word in words:
        token, _, bias = word.partition("=")
        try:
            key, value = int(token), float(bias)
        except ValueError:
            raise invalid("--logit-bias", f"{word!r} has no token and bias.", "Write TOKEN=BIAS: 17=-2.5.") from None
        if not 0 <= key < 2**32:
            raise invalid("--logit-bias", f"no token has the id {key}.", "Give an id of the LLM.")
        if key in made:
            raise invalid("--logit-bias", f"token {key} has two.", "Give each token one bias.")
        made[key] = value
    return made or None
