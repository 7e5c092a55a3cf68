"""Chat templates rendered in a process of their own, with bounds on time and memory.

A template comes with a model and is other people's code; the sandbox keeps it from reading and calling, not from
`range` in `range` or `'a' * 10**9`. Neither can be stopped from within, nor from another thread. So they run where they
can be ended: a template that takes too much is refused by name, and the next one finds a fresh process.

The process lives as long as its owner: it ends when its stdin does. Beside that it knows nothing of the router.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

import grpc
import structlog

from router_svc.text import rendering
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
# Of a rendering: seconds of CPU time, so that a busy machine refuses nothing that an idle one renders.
MAX_CPU_S = 2.0
# Address space of the process. What may come over the wire at once is rendered in a fraction of it.
_MAX_BYTES = 512 << 20
# Characters of a rendering: more than what may come over the wire at once.
_MAX_CHARS = 32 << 20
# Bytes from which on a conversation is a long one. They have a process of their own: short ones do not wait for them.
_LONG = 256 * 1024
# Seconds that a rendering waits for those before it.
_PATIENCE_S = 10.0
_LENGTH = struct.Struct(">I")
_TEXT, _ERROR = b"T", b"E"
# Python writes objects with the place where they are in memory.
_ADDRESS = re.compile(r"(?: at)? 0x[0-9a-fA-F]+")


class TemplateRefused(Exception):
    """The template raised something, or took more time or memory than it may."""


class RenderProcess:
    """Renders one template at a time. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """The text that a template makes of its variables, which are values of JSON. Raises: TemplateRefused."""
        return self.reply_to(_request(source, variables))

    def reply_to(self, request: bytes) -> str:
        """As `render`, of what `_request` made."""
        if not self._lock.acquire(timeout=_PATIENCE_S):
            what = "other conversations are still being rendered."
            raise RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TEMPLATES_BUSY", what, retry_after_s=_PATIENCE_S)
        try:
            # One that was ended from outside says nothing about the template, so that it is tried once more.
            reply = self._reply(request) or self._reply(request)
        finally:
            self._lock.release()
        if reply is None:
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "NO_TEMPLATES", "chat templates cannot be rendered.")
        kind, text = reply[:1], reply[1:].decode()
        if kind != _TEXT:
            raise TemplateRefused(text)
        return text

    def close(self) -> None:
        """Ends the process; the next rendering begins another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if stream is not None:
                        stream.close()

    def _reply(self, request: bytes) -> bytes | None:
        if self._process is None:
            # In a session of its own, so that a Ctrl-C for the router is none for it.
            command = [sys.executable, "-m", __name__]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            _send(process.stdin, request)
            reply = _receive(process.stdout)
            if reply is not None:
                return reply
        self.close()
        if process.returncode == -signal.SIGPROF:
            return _ERROR + f"it takes more than {MAX_CPU_S:g} s".encode()
        return None


@functools.cache
def _shared(pid: int, is_long: bool) -> RenderProcess:
    made = RenderProcess()
    atexit.register(made.close)
    return made


def render(source: str, variables: Mapping[str, Any]) -> str:
    """The text that a template makes of its variables, which are values of JSON. Raises: TemplateRefused."""
    request = _request(source, variables)
    return _shared(os.getpid(), len(request) > _LONG).reply_to(request)  # a fork has its own


def _request(source: str, variables: Mapping[str, Any]) -> bytes:
    return json.dumps([source, variables]).encode()


def warm_up() -> None:
    """Begins the process, which takes part of a second, before the first question waits for it."""
    try:
        render("", {})
    except (OSError, RstitchError, TemplateRefused) as error:
        _log.warning("chat templates cannot be rendered now", error=str(error))


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes | None:
    """The next message; None where the stream ends."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None


def _serve() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (request := _receive(sys.stdin.buffer)) is not None:
        # The signal's default is to end the process, whatever it is in the middle of.
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
        reply = _rendered(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(sys.stdout.buffer, reply)


def _rendered(request: bytes) -> bytes:
    try:
        source, variables = json.loads(request)
        text = rendering.render(source, variables)
        if len(text) > _MAX_CHARS:
            return _ERROR + f"it writes {len(text)} characters".encode()
        return _TEXT + text.encode()
    except MemoryError:
        return _ERROR + f"it takes more than {_MAX_BYTES >> 20} MiB".encode()
    except Exception as error:  # noqa: BLE001 - other people's code
        return _ERROR + _ADDRESS.sub("", str(error)[:1000] or type(error).__name__).encode(errors="replace")


if __name__ == "__main__":
    _serve()
