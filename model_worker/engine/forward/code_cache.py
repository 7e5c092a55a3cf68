"""Where machine code that was built here is kept. What is found there is run: nobody else may have written it."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """Returns `rstitch` in XDG_CACHE_HOME, which is ~/.cache if unset. Raises OSError where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rstitch"
    except RuntimeError as error:
        raise OSError(f"no folder to keep it in: {error}; name one in XDG_CACHE_HOME") from error


def is_kept(file: Path) -> bool:
    """Says whether the file is there. Raises OSError if it cannot be looked at, or somebody else could write it."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return False
    for path, status in ((file.parent, file.parent.stat()), (file, found)):
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{path} belongs to another user, or others may write to it; remove it")
    return True


def make_folder(file: Path) -> None:
    """Makes the folder of a file that is to be kept, for this user alone."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def keep(made: Path, file: Path) -> None:
    """Moves what was made to its place: at once, and whole even if the machine then loses its power."""
    made.chmod(0o600)
    with made.open("rb") as written:
        os.fsync(written.fileno())
    # At once: another worker may be making the same.
    os.replace(made, file)
