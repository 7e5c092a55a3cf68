"""Keys in a file, for workers and small set-ups: written whole, read again when it changed. It knows no server."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from rstitch.errors import invalid
from rstitch.service.keys import Key, all_from_json, all_to_json

_log = structlog.get_logger(__name__)
_LOOK_S = 1.0
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class KeyFile:
    """A `KeySource` that reads its file at most once a second, when a key is looked for.

    What cannot be read is said in the log, and the keys that were read last stay good.
    """

    def __init__(self, path: Path, flag: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the file. Raises: RstitchError (INVALID_ARGUMENT) about `flag` if that fails."""
        self._path = path
        self._clock = clock
        self._trouble = ""
        try:
            self._text = _read(path)
            self._keys = all_from_json(self._text)
        except (OSError, ValueError) as error:
            remedy = "`rstitch keys add --file` makes one."
            raise invalid(flag, f"{path} cannot be used: {_why(error)}.", remedy) from error
        self._looked = clock()

    def find(self, key_id: str) -> Key | None:
        if self._clock() - self._looked >= _LOOK_S:
            self._looked = self._clock()
            self._look()
        return self._keys.get(key_id)

    def _look(self) -> None:
        """Reads the file again, all of it: its time and size may be the same though something in it was changed."""
        try:
            text = _read(self._path)
            if text != self._text:
                self._keys, self._text = all_from_json(text), text
                _log.info("keys read again", file=str(self._path), num_keys=len(self._keys))
            self._trouble = ""
        except (OSError, ValueError) as error:
            if _why(error) != self._trouble:  # one line for one fault, however often it is met
                _log.error("keys cannot be read; the last ones stay", file=str(self._path), error=_why(error))
            self._trouble = _why(error)


def load(path: Path) -> dict[str, Key]:
    """Reads the keys of a file by their ids; none if there is no file. Raises: OSError or ValueError."""
    try:
        return all_from_json(_read(path))
    except FileNotFoundError:
        return {}


def save(path: Path, keys: Mapping[str, Key]) -> None:
    """Replaces the file at once by one that only its owner may read or write. Raises: OSError."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(all_to_json(keys.values()))
            file.flush()
            os.fsync(number)
        if path.exists() and path.stat().st_uid != os.geteuid():
            os.chown(name, path.stat().st_uid, -1)  # whoever read it shall still be able to
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps others who change keys by this function away meanwhile, so that no change is lost. Raises: OSError."""
    folder = os.open(path.parent, os.O_RDONLY)  # the file itself is replaced
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS_MAY_WRITE:
            raise ValueError("others than its owner may write to it; chmod go-w")
        return file.read()


def _why(error: OSError | ValueError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
