"""`response_format`: the JSON schema that an answer is to be held to. Whether it can be, the router says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gateway.errors import bad

_PARAM = "response_format"


def schema_of(asked: Mapping[str, Any] | None) -> str | None:
    """Returns the schema as text; None where any text is an answer. Raises: ApiError naming the parameter at fault.

    `strict` makes no difference: an answer is held to each schema, and one that it cannot be held to is refused.
    """
    match (asked or {}).get("type", "text" if not asked else None):
        case "text":
            return None
        case "json_object":
            return '{"type":"object"}'
        case "json_schema":
            named = (asked or {}).get("json_schema")
            if not isinstance(named, Mapping):
                raise bad(_PARAM, "there is no json_schema.", "Send an object with name and schema.")
            schema = named.get("schema", {})
            if not isinstance(schema, Mapping):
                raise bad(_PARAM, "its schema is no JSON object.", "Send a JSON schema.")
            return json.dumps(schema)
        case other:
            remedy = "Use text, json_object or json_schema."
            raise bad(_PARAM, f"{other!r} is no format of an answer.", remedy)
