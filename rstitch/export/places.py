"""Where an export goes: a folder here, or in an object store by pyarrow. What is there under a name is always whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol

from rstitch.errors import RstitchError, invalid
from rstitch.export.writers import pyarrow

_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_COPIED = 1 << 20  # bytes at once


class Place(Protocol):
    """A folder, wherever it is."""

    def write(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Opens a file that appears under its name when the context ends well, in place of one that was there."""

    def read(self, name: str) -> bytes | None:
        """Gives what is there under a name; None: nothing."""


class Folder:
    """A folder of this machine; it is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """Opens a file beside the one that it will be. Raises: RstitchError where that cannot be written."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            handle, made = tempfile.mkstemp(prefix=f".{name}.", dir=self._path)
        except OSError as error:
            raise _unusable(str(self._path), error) from error
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(made, 0o666 & ~_umask())
            os.replace(made, self._path / name)
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
            if isinstance(error, OSError) and error.errno in _FULL:
                raise _unusable(str(self._path), error) from error
            raise

    def read(self, name: str) -> bytes | None:
        """Gives a file's bytes."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(str(self._path), error) from error


class Bucket:
    """A folder of an object store, as s3:// and gs:// name it; there a file appears when it is closed."""

    def __init__(self, files: Any, path: str) -> None:
        self._files = files
        self._path = path

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """Opens a file of this machine that becomes the object. Raises: RstitchError where the store refuses it."""
        # An object cannot be given up once it is open: closed, it is there in place of the one before.
        with tempfile.TemporaryFile() as kept:
            yield kept
            kept.seek(0)
            try:
                self._files.create_dir(self._path, recursive=True)
                with self._files.open_output_stream(f"{self._path}/{name}") as stream:
                    shutil.copyfileobj(kept, stream, _COPIED)
            except OSError as error:
                raise _unusable(self._path, error) from error

    def read(self, name: str) -> bytes | None:
        """Gives an object's bytes."""
        try:
            with self._files.open_input_stream(f"{self._path}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self._path, error) from error


def place_of(to: str) -> tuple[Place, str]:
    """The folder that `--to` names or is in, and the name of its file there; "": it names a folder.

    Raises: RstitchError naming the flag.
    """
    base, slash, name = to.rpartition("/")
    if Path(name).suffix not in (".jsonl", ".parquet"):
        base, slash, name = to.rstrip("/"), "/", ""
    if not _URL.match(to):
        return Folder(Path(base if slash else ".") if base or not slash else Path("/")), name
    pyarrow()
    from pyarrow import fs

    try:
        files, path = fs.FileSystem.from_uri(base)
    except (ValueError, OSError) as error:
        remedy = "Write s3://BUCKET/PATH, gs://BUCKET/PATH or a path of this machine."
        raise invalid("--to", f"it is no place that can be written: {error}.", remedy) from error
    return Bucket(files, path.rstrip("/")), name


def _unusable(path: str, error: OSError) -> RstitchError:
    remedy = "Name a place that this user may write."
    return invalid("--to", f"{path} cannot be used: {error.strerror or error}.", remedy)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
