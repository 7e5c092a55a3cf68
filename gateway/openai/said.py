"""Which of a request's parameters said what the router refuses: a policy may stand in five places of a request.

It knows neither route nor router.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from gateway.errors import ApiError, of_router, param_of
from gateway.names import MODEL_NOT_FOUND
from gateway.openai.question import POLICY_HEADER
from gateway.openai.requests import CompletionRequest, Request, RstitchOptions
from rstitch.errors import RstitchError

_OF_A_POLICY = re.compile(r"(policy|early_exit|budget)(\.|$)")


def explained(error: RstitchError, request: Request, headers: Mapping[str, str], given: str) -> ApiError:
    """Makes the error of a question that was refused; `given` is the parameter that has its text.

    A model's name that cannot be asked for is one that does not exist.
    """

    def called(field: str) -> str:
        if field == "max_new_tokens" and _says_max_tokens(request):
            return "max_tokens"
        found = _OF_A_POLICY.match(field)
        return (_said_by(found[1], request, headers) if found else "") or param_of(field, given)

    made = of_router(error, called)
    if made.param == "model" and made.status in (400, 404):
        return dataclasses.replace(made, status=404, code=MODEL_NOT_FOUND, kind="not_found_error")
    return made


def _said_by(part: str, request: Request, headers: Mapping[str, str]) -> str:
    """Names what said who writes; "" for an option of the body that has fields of its own."""
    own = request.rstitch or RstitchOptions()
    if part != "policy" and getattr(own, part) is not None:
        return ""
    ways = ("policy", "tau", "profile") if part == "policy" else ("policy",)  # a tau says only who
    if way := next((name for name in ways if getattr(own, name) is not None), None):
        return f"rstitch.{way}"
    return POLICY_HEADER if headers.get(POLICY_HEADER) else "model"


def _says_max_tokens(request: Request) -> bool:
    newer = getattr(request, "max_completion_tokens", None)
    return newer is None and (request.max_tokens is not None or isinstance(request, CompletionRequest))
