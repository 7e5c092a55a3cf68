"""Cuts OpenAI's own description of its API down to the routes that we have: `python -m evals.clients.description FILE`.

FILE is openapi.json of https://github.com/openai/openai-openapi. What it writes lies in descriptions/, under that
project's licence; suites read it from there. Beside what is cut, it says what the whole leaves open: our models' names,
how errors look, and that what was answered is found under its id.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CUT = Path(__file__).parent / "descriptions" / "openai.json"
_ROUTES = {
    "/chat/completions": ("get", "post"),
    "/chat/completions/{completion_id}": ("get", "delete"),
    "/completions": ("post",),
    "/models": ("get",),
    "/models/{model}": ("get",),
}
_ERROR = "#/components/schemas/ErrorResponse"
_MODELS = {"type": "string", "enum": ["rstitch", "rstitch/llm", "rstitch/slm"]}
_REQUESTS = ("CreateChatCompletionRequest", "CreateCompletionRequest")
_KEPT = {
    name: {"operationId": operation, "parameters": {"completion_id": "$response.body#/id"}}
    for name, operation in (("read", "getChatCompletion"), ("forget", "deleteChatCompletion"))
}
# What docs/http.md says is refused by name.
# fmt: off
_REFUSED = frozenset([
    "audio", "best_of", "function_call", "functions", "modalities", "prediction", "response_format", "suffix",
    "tool_call_id", "tool_calls", "tool_choice", "tools", "web_search_options",
])
# fmt: on
_REFUSED_KINDS = ("PartImage", "PartAudio", "PartFile", "PartRefusal", "ToolMessage", "FunctionMessage")
# What the description leaves unsaid: bounds, and what goes only with something else (n with a temperature, logprobs of
# which there are some only if asked for, options of streams).
_TOLD: dict[str, Any] = {
    "content": {"type": "string", "minLength": 1, "maxLength": 200},
    "logit_bias": None,
    "max_completion_tokens": {"type": "integer", "minimum": 1, "maximum": 16},
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 16},
    "n": {"type": "integer", "enum": [1]},
    "prompt": {"type": "string", "minLength": 1, "maxLength": 200},
    "stop": {"type": "string", "minLength": 1, "maxLength": 20},
    "stream_options": None,
    "top_logprobs": None,
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
}
_PROSE = ("description", "example", "examples", "title", "summary")


def cut(whole: dict[str, Any]) -> dict[str, Any]:
    """Keeps our routes and what they refer to, without prose."""
    paths: dict[str, Any] = {}
    for path, methods in _ROUTES.items():
        paths[path] = {method: _operation(whole["paths"][path][method]) for method in methods}
    paths["/chat/completions"]["post"]["responses"]["200"]["links"] = _KEPT
    paths["/models/{model}"]["get"]["parameters"][0]["schema"] = _MODELS
    kept: dict[str, Any] = {}
    waiting = [_ERROR, *_references(paths)]
    while waiting:
        *_, kind, name = waiting.pop().split("/")
        if name not in kept.setdefault(kind, {}):
            kept[kind][name] = _without_prose(whole["components"][kind][name])
            if name in _REQUESTS:
                _name_models(kept[kind][name])
            waiting += _references(kept[kind][name])
    info = {"title": "OpenAI API, cut", "version": whole["info"]["version"], "license": {"name": "MIT"}}
    return {"openapi": whole["openapi"], "info": info, "servers": whole["servers"], "paths": paths, "components": kept}


def answerable(description: dict[str, Any]) -> dict[str, Any]:
    """Drops from a cut what we refuse by name, and says its bounds, so that requests made of the rest are answered."""
    schemas = description["components"]["schemas"]
    asked = {name for name in schemas if "Request" in name or "ModelResponse" in name}
    left = {name: _answerable(schema) if name in asked else schema for name, schema in schemas.items()}
    return description | {"components": description["components"] | {"schemas": left}}


def _answerable(part: Any) -> Any:
    if isinstance(part, list):
        return [_answerable(each) for each in part if not _is_refused(each)]
    if not isinstance(part, dict):
        return part
    left = {key: _answerable(value) for key, value in part.items()}
    if isinstance(fields := left.get("properties"), dict):
        told = {name: _TOLD.get(name, field) for name, field in fields.items() if name not in _REFUSED}
        left["properties"] = {name: field for name, field in told.items() if field is not None}
    return left


def _is_refused(alternative: Any) -> bool:
    named = str(alternative.get("$ref", "")) if isinstance(alternative, dict) else ""
    return any(kind in named for kind in _REFUSED_KINDS)


def _operation(whole: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = _without_prose(whole)
    made.pop("security", None)
    refused = {"description": "refused", "content": {"application/json": {"schema": {"$ref": _ERROR}}}}
    answered = {"description": "answered"} | made["responses"]["200"]
    if "requestBody" in made:
        # It leaves out that completions stream, too, and describes the data of an event as if it were the event.
        answered["content"]["text/event-stream"] = {}
    made["responses"] = {"200": answered, "4XX": refused}
    return made


def _name_models(request: dict[str, Any]) -> None:
    for part in [request, *request.get("allOf", ())]:
        if "model" in part.get("properties", ()):
            part["properties"]["model"] = _MODELS


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for each in part:
            yield from _references(each)


def _without_prose(part: Any) -> Any:
    """A property may be called as prose is; then what it has is no text."""
    if isinstance(part, dict):
        return {
            key: _without_prose(value)
            for key, value in part.items()
            if not (key in _PROSE and not isinstance(value, dict)) and not key.startswith("x-")
        }
    return [_without_prose(each) for each in part] if isinstance(part, list) else part


def main() -> None:
    """Writes the cut of the file that is named."""
    made = cut(json.loads(Path(sys.argv[1]).read_text()))
    CUT.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
