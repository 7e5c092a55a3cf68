"""Every error as OpenAI's clients know it: `{"error": {message, type, param, code}}` with the right status.

The text and the remedy are the router's own; `code` is its reason, on which a program can branch. It knows no route.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from starlette.responses import Response

from rstitch.errors import RstitchError

# Status and type by gRPC code; the types are those of OpenAI's own API.
_BY_CODE: dict[grpc.StatusCode, tuple[int, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error"),
    grpc.StatusCode.OUT_OF_RANGE: (400, "invalid_request_error"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "authentication_error"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error"),
    grpc.StatusCode.NOT_FOUND: (404, "not_found_error"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "conflict_error"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "conflict_error"),
    grpc.StatusCode.ABORTED: (409, "conflict_error"),
    grpc.StatusCode.CANCELLED: (409, "conflict_error"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    grpc.StatusCode.UNIMPLEMENTED: (501, "invalid_request_error"),
    grpc.StatusCode.UNAVAILABLE: (503, "service_unavailable_error"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "timeout_error"),
}
_INTERNAL = (500, "server_error")
_TYPES = dict(_BY_CODE.values()) | {
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
}
# How the router's fields are called over here, longest first; what has the question's text is called as it was sent.
_PARAMS = (
    ("chat.chat_template_kwargs", "chat_template_kwargs"),
    ("chat.messages", "messages"),
    ("chat.tools", "tools"),
    ("details.top_logprobs", "top_logprobs"),
    ("max_new_tokens", "max_completion_tokens"),
    ("policy", "rstitch.policy"),
    ("early_exit", "rstitch.early_exit"),
    ("budget", "rstitch.budget"),
    ("session_id", "rstitch.session_id"),
    ("json_schema", "response_format"),
    ("grammar.json_schema", "response_format"),
    ("grammar", "response_format"),
    ("sampling.", ""),
)
_TEXTS = ("chat", "text", "tokens.ids", "tokens", "input")


@dataclass(slots=True)
class ApiError(Exception):
    """An error as it is answered; `retry_after_s` says when the same request may be taken."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    kind: str = ""  # "": the one of the status
    retry_after_s: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)  # such as where an interrupted answer goes on

    def body(self) -> dict[str, Any]:
        """Makes the JSON of it."""
        kind = self.kind or _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error: dict[str, Any] = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error | ({"rstitch": dict(self.facts)} if self.facts else {})}

    def response(self) -> Response:
        """Makes the answer. All of it is ASCII: what is echoed may be no text that can be encoded."""
        body = json.dumps(self.body(), separators=(",", ":"))
        return Response(body, self.status, {"content-type": "application/json", **self.headers()})

    def headers(self) -> dict[str, str]:
        """Makes the headers that go with it."""
        made = {"x-rstitch-error": self.code} if self.code else {}
        if self.retry_after_s is not None:
            made |= {"retry-after": str(math.ceil(self.retry_after_s))}
        return made | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def bad(param: str, what: str, remedy: str, code: str = "invalid_value") -> ApiError:
    """Makes the error of a request whose `param` holds what it may not."""
    return ApiError(400, f"{param}: {what} {remedy}", param, code)


def param_of(name: str, given: str = "prompt") -> str:
    """Gives OpenAI's name for a field of the router's; `given` is the parameter that has the question's text."""
    for theirs, ours in (*_PARAMS, *((text, given) for text in _TEXTS)):
        if name.startswith(theirs) and (theirs.endswith(".") or re.match(r"$|[.\[]", name[len(theirs) :])):
            return ours + name[len(theirs) :]
    return name


def of_router(error: RstitchError, called: Callable[[str], str] = param_of) -> ApiError:
    """Says what the router, or the way to it, has refused or failed with; `called` gives its name of a field."""
    status, kind = _BY_CODE.get(error.code, _INTERNAL)
    too_large = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after_s is None
    if too_large and error.reason in ("MESSAGE_TOO_LARGE", "TOO_MANY_PARTS"):
        status, kind = 413, "invalid_request_error"
    param = called(error.field) if error.field else None
    message = f"{f'{param}: ' if param else ''}{error.message}{f' {error.remedy}' if error.remedy else ''}"
    return ApiError(status, message, param, error.reason, kind, error.retry_after_s, error.metadata)
