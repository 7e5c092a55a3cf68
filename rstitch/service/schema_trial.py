"""A JSON schema is tried in a process that can be ended, before anything that serves others takes it in: by the router,
and by a worker, whoever asks that.

What a schema costs to make cannot be seen by looking at it, and neither be stopped from within nor from another thread:
one of forty bytes can take minutes and all memory. What is tried knows no vocabulary; the work is not in that.
"""

from __future__ import annotations

import functools
import json
import resource
import signal
import subprocess
import sys

import grpc
import structlog
from llguidance import LLMatcher, LLTokenizer

from rstitch.errors import RstitchError, invalid
from rstitch.service.json_schemas import LIMITS, grammar_of, refused

_log = structlog.get_logger(__name__)
# Of one trial: seconds of CPU time, so that a busy machine refuses nothing that an idle one takes, and address space.
_MAX_CPU_S = 2
_MAX_BYTES = 512 << 20
_MAX_WALL_S = 20.0
_REMEDY = "Send a simpler one: short patterns, small multiples, few alternatives."


def check_schema(schema: str, field: str) -> None:
    """Raises RstitchError INVALID_ARGUMENT, with the field, for a schema that no answer can be held to.

    One that was not asked for lately takes a fifth of a second, and at most some seconds; call it in a thread.
    """
    said = _tried(schema)
    if said is None:
        raise invalid(field, "it takes too much time or memory to be held to.", _REMEDY, "SCHEMA_REFUSED")
    if said:
        raise invalid(field, said["message"], said["remedy"], said["reason"])


@functools.lru_cache(maxsize=256)
def _tried(schema: str) -> dict[str, str] | None:
    """What the process said: nothing of a schema that is taken. None if it had to be ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], input=schema.encode(), capture_output=True, timeout=_MAX_WALL_S,
            start_new_session=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise too_many("there was no time to read the schema.") from None
    if done.returncode in (-signal.SIGKILL, -signal.SIGTERM):
        raise too_many("there was no time to read the schema.")
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip()[-500:]
        _log.warning("the trial of a schema was ended", code=done.returncode, said=last, bytes=len(schema))
        return None
    said: dict[str, str] = json.loads(done.stdout)
    return said


def too_many(what: str) -> RstitchError:
    """RESOURCE_EXHAUSTED of a schema that is not tried, or whose trial the machine ended: not the schema's fault."""
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return RstitchError(code, "TOO_MANY_SCHEMAS", what, remedy="Try again later.", retry_after_s=1.0)


def _try() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    # The signal's default is to end the process, whatever it is in the middle of.
    signal.setitimer(signal.ITIMER_PROF, _MAX_CPU_S)
    said = dict[str, str]()
    try:
        grammar = grammar_of(sys.stdin.buffer.read().decode(), "")
        matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise refused("", matcher.get_error())
    except RstitchError as error:
        said = {"message": error.message, "remedy": error.remedy or "", "reason": error.reason}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    _try()
