"""What FastAPI cannot see of our answers, for /openapi.json: every failure has one form, and some answers stream."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Failure(BaseModel):
    """Why it failed: for people with a remedy, for programs by `code`, and the parameter at fault."""

    message: str
    type: str
    param: str | None
    code: str | None
    rstitch: dict[str, str] | None = None


class ErrorBody(BaseModel):
    """The body of every failure."""

    error: Failure


_FAILED: dict[str, Any] = {"model": ErrorBody, "description": "It failed, and says why and what to do."}
FAILURES: dict[int | str, dict[str, Any]] = {"4XX": _FAILED, "5XX": _FAILED}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
