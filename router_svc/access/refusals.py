"""The errors of quotas: reason, words and remedy once each."""

from __future__ import annotations

from grpc import StatusCode

from rstitch.errors import RstitchError

_DOING = {
    "requests_per_minute": "requests in a minute",
    "tokens_per_minute": "tokens in a minute",
    "llm_tokens_per_minute": "tokens of the LLM in a minute",
    "max_running": "answers at once",
    "max_trajectories": "trajectories that are kept",
}


def quota_exceeded(quota: str, limit: int, used: int, wait_ms: int) -> RstitchError:
    """RESOURCE_EXHAUSTED: the key has had what it may take, of the named limit, and has to wait for so long."""
    what = f"this key may have {limit} {_DOING[quota]}, and has {used}."
    remedy = "Ask again after the delay that the error names, or ask for a larger quota."
    if quota == "max_trajectories":
        remedy = "Delete trajectories, or ask for a larger quota."
    metadata = {"quota": quota, "limit": str(limit), "used": str(used), "remaining": str(max(0, limit - used))}
    code = StatusCode.RESOURCE_EXHAUSTED
    return RstitchError(code, "QUOTA_EXCEEDED", what, remedy=remedy, metadata=metadata, retry_after_s=wait_ms / 1000)
