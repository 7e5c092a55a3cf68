"""How an answer is to be written, as one word for command lines and files, and back.

    threshold:tau=0.02,signal=margin
    learned:tiny,tau=0.02+budget:llm_tokens=20,stop=true
    profile:fast+early_exit:threshold=0.95

A policy's name and its fields as in `rstitch.client.types`, then what goes with it. Where the field `name` comes
first its value is enough.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, get_args, get_type_hints

from rstitch.client.types import Budget, EarlyExit, Policy
from rstitch.errors import invalid


@dataclass(frozen=True, slots=True)
class Spec:
    """A policy and what goes with it; its fields are arguments of the clients' `generate`."""

    policy: Policy | None = None
    early_exit: EarlyExit | None = None
    budget: Budget | None = None


def name_of(kind: type) -> str:
    """Gives a class its name in the contract: `LlmOnly` is `llm_only` there."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


KINDS: dict[str, type] = {name_of(kind): kind for kind in get_args(Policy)}
_EXTRAS: dict[str, type] = {name_of(kind): kind for kind in (EarlyExit, Budget)}


def parse(text: str) -> Spec:
    """Reads a spec from its word. Raises: InvalidArgument naming what is wrong."""
    first, *rest = re.split(r"\+(?=(?:early_exit|budget)\b)", text.strip())
    name, _, arguments = first.partition(":")
    name = name.replace("-", "_")
    if name not in KINDS:
        raise invalid("policy", f"there is no policy {name!r}.", f"Choose one of {', '.join(KINDS)}.")
    policy = _made(name, KINDS[name], arguments)
    extras: dict[str, Any] = {}
    for part in rest:
        extra, _, arguments = part.partition(":")
        extras[extra] = _made(extra, _EXTRAS[extra], arguments)
    return Spec(policy, **extras)


def text_of(spec: Spec) -> str:
    """Writes what `parse` reads; fields that have their default are left out."""
    parts = [value for value in (spec.policy, spec.early_exit, spec.budget) if value is not None]
    return "+".join(_word(part) for part in parts)


def policy_text(policy: Policy | None) -> str:
    """Writes a policy as one word; "" if it is unknown."""
    return "" if policy is None else text_of(Spec(policy))


def _word(value: Any) -> str:
    fields = [
        f"{field.name}={_plain(given)}"
        for field in dataclasses.fields(value)
        if (given := getattr(value, field.name)) != field.default
    ]
    return f"{name_of(type(value))}:{','.join(fields)}" if fields else name_of(type(value))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "|".join(map(_escaped, value)) if isinstance(value, tuple) else _escaped(str(value))


def _escaped(text: str) -> str:
    """Writes line ends and tabs as a Python string does."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text)


def _made(name: str, kind: type, arguments: str) -> Any:
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for index, argument in enumerate(filter(None, arguments.split(","))):
        key, equals, value = argument.partition("=")
        if not equals and not index and "name" in fields:
            key, equals, value = "name", "=", argument
        key = key.strip().replace("-", "_")
        if key not in fields or not equals:
            takes = f"{name} takes {', '.join(fields)}." if fields else f"{name} takes nothing."
            raise invalid(f"policy {name}", f"{argument!r} is not understood.", f"Write field=value; {takes}")
        given[key] = _value(f"{name}.{key}", hints[key], value.strip())
    missing = [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in given]
    if missing:
        raise invalid(f"policy {name}", f"{missing[0]} is missing.", f"Write {name}:{missing[0]}=VALUE.")
    return kind(**given)


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a kind's fields; they are texts, and to read them takes longer than a request may."""
    return get_type_hints(kind)


def _value(field: str, hint: Any, text: str) -> Any:
    kind = next(option for option in (get_args(hint) or (hint,)) if option is not type(None))
    try:
        if hint == tuple[str, ...]:
            return tuple(_unescaped(part) for part in text.split("|"))
        if kind is str:
            return _unescaped(text)
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if issubclass(kind, StrEnum):
            return kind(text.lower())
        return kind(text)
    except (ValueError, KeyError):
        wanted = ", ".join(kind) if issubclass(kind, StrEnum) else kind.__name__
        raise invalid(field, f"{text!r} is no such value.", f"Give one of: {wanted}.") from None
