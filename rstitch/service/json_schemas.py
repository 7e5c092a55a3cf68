"""JSON schemas as llguidance takes them, and the refusal of those that an answer cannot be held to exactly.

Router and worker read a schema by this code alone. It knows no vocabulary: what a schema allows of one is the worker's
business.
"""

from __future__ import annotations

import json

from llguidance import LLMatcher, LLParserLimits

from rstitch.errors import RstitchError, invalid
from rstitch.limits import MAX_SCHEMA_BYTES

# How much work a schema may make. The library's bounds suit one caller; here many share an engine's thread, where the
# last two of these are counted: about a dozen milliseconds a token. An error tells no state of the parser.
LIMITS = LLParserLimits(max_grammar_size=200_000, step_lexer_fuel=150_000, step_max_items=30_000, verbose_errors=False)
# What a schema cannot set by its `x-guidance`: else an answer might be no JSON, or not what the schema says. Of white
# space so much suffices for any indentation; without a bound a model may write nothing else until its answer ends.
_OVERRIDES = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}",
    "lenient": False,
    "coerce_one_of": False,
}
_REMEDY = "Send a JSON schema of keywords that can be held to; docs/http.md names them."


def grammar_of(schema: str, field: str) -> str:
    """Returns what llguidance is told. Raises RstitchError INVALID_ARGUMENT with the field, if it cannot be held to.

    It may take minutes and all memory: what comes from others is tried by `schema_trial` first.
    """
    size = len(schema.encode())
    if size > MAX_SCHEMA_BYTES:
        told = f"a schema has at most {MAX_SCHEMA_BYTES:,} bytes, not {size:,}."
        raise invalid(field, told, "Send a smaller one.")
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise invalid(field, f"it is no JSON: {error}.", _REMEDY) from error
    if not isinstance(parsed, dict):
        raise invalid(field, "it is no JSON object.", _REMEDY)
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OVERRIDES)  # type: ignore[arg-type]
    except ValueError as error:
        raise invalid(field, f"{_first_line(str(error))}.", _REMEDY) from error
    is_error, told_of = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    if is_error:
        raise refused(field, told_of[0])
    return grammar


def refused(field: str, said: str) -> RstitchError:
    """Makes the error of a schema that llguidance refuses, with what it `said`."""
    return invalid(field, f"{_first_line(said)}.", _REMEDY, "SCHEMA_REFUSED")


def _first_line(said: str) -> str:
    return said.strip().split("\n")[0].rstrip(".")
