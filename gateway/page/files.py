"""The files of the page, read once. Each is served under the digest of all of them, so that it never changes there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_BASE = b"{{base}}"
_INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class File:
    """What is sent of a file."""

    content: bytes
    kind: str


class Files:
    """All files of the page by their path; `index` is the document, which names the others under `base`."""

    def __init__(self, prefix: str) -> None:
        paths = sorted(path for path in _FOLDER.rglob("*") if path.suffix in _KINDS)
        contents = {path.relative_to(_FOLDER).as_posix(): path.read_bytes() for path in paths}
        digest = hashlib.sha256(b"".join(name.encode() + b"\0" + contents[name] for name in contents)).hexdigest()
        self.version = digest[:16]
        self.base = f"{prefix}/{self.version}"
        self.index = contents.pop(_INDEX).replace(_BASE, self.base.encode())
        self._files = {name: File(content, _KINDS[Path(name).suffix]) for name, content in contents.items()}

    def get(self, version: str, name: str) -> File | None:
        """Gives a file of this version; None if there is none of that name, or another version is meant."""
        return self._files.get(name) if version == self.version else None

    @property
    def names(self) -> list[str]:
        """Lists what is served beside the document."""
        return list(self._files)
