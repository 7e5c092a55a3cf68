"""The heads of the policy `learned` in files, by name: of a folder, looked at anew for each answer, or of the hub.

    NAME/head.safetensors           asked for as NAME, or as NAME@VERSION while it is of that version
    NAME@VERSION/head.safetensors   one that was replaced, kept for answers that began with it

A head that is added, replaced or removed counts from the next answer on, without a restart. A version is made of the
file's content, so that an answer goes on with exactly the head that it began with, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import structlog

from rstitch.errors import RstitchError, invalid
from rstitch.service.head import Head, HeadFacts, HeadFileError, version_of

_log = structlog.get_logger(__name__)
FILE = "head.safetensors"
FIELD = "policy.learned.name"
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
# With its version a name is one that a worker takes (PutHeadRequest.name).
_NAME = re.compile(rf"(?=[^@]{{1,96}}(?:@|$))({_PART}(?:/{_PART})?)(?:@([0-9a-f]{{1,64}}))?")


@dataclass(frozen=True, slots=True)
class NamedHead:
    """A head, and the name that it was found under."""

    name: str
    head: Head

    @property
    def full_name(self) -> str:
        """NAME@VERSION, under which the same head is found again and the SLM's worker keeps it."""
        return f"{self.name}@{self.head.version}"


@dataclass(frozen=True, slots=True)
class HeadState:
    """What GetStatus says of a head; `detail` says why it cannot be asked for, "" if it can.

    `active` if this version is what its name stands for, `stored` if the store has it and not the folder. Only
    of the store's are known `updated_ms`, when it was last put, and `ttl_s`, in how many seconds it is forgotten.
    """

    name: str
    version: str
    tau: float
    detail: str
    features: tuple[str, ...] = ()
    active: bool = False
    description: str = ""
    stored: bool = False
    updated_ms: int | None = None
    ttl_s: int | None = None


def split_name(name: str) -> tuple[str, str | None]:
    """A head's name or hub id, and its version if there is one. Raises RstitchError, naming the field."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise invalid(
            FIELD,
            "it is empty." if not name else f"{name[:200]!r} names no head.",
            "Send NAME, NAME@VERSION, or the id of a repository on the hub; `rstitch heads ls` lists the heads.",
        )
    plain, version = match.groups()
    return plain, version


class Reader(Protocol):
    """The model whose hidden states a head reads, with what a head must fit."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...


def check_fit(name: str, facts: HeadFacts, slm: Reader | None, field: str = FIELD) -> None:
    """Raises RstitchError (FAILED_PRECONDITION), naming the field, for a head that does not fit the SLM."""
    if slm is not None and (misfit := facts.misfit(slm.hidden_size, slm.fingerprint)):
        what = f"the head {name} does not fit the SLM: {misfit}."
        remedy = "Take a head that was trained for this pair; `rstitch heads ls` lists the heads."
        raise _error(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_MISFIT", what, remedy, field)


class Heads:
    """Finds heads by name. Its methods read files, and `get` may fetch one from the hub: call them in a thread.

    Without a folder only the hub's heads can be asked for, and of the hub only the repositories that are named: no
    client has files fetched by asking. `slm` returns None while its worker has said nothing.
    """

    def __init__(self, folder: str, slm: Callable[[], Reader | None], hub: Collection[str] = ()) -> None:
        self._folder = Path(folder) if folder else None
        self._hub = hub
        self._slm = slm
        # Heads that were read, each with what the file system said of its file then: time, size, inode. While that is
        # the same the file is not read again. A file that was only touched is the same version, and stays the same
        # `Head`.
        self._read: dict[Path, tuple[tuple[int, int, int], Head]] = {}
        self._fetched: dict[str, Path] = {}

    def get(self, name: str) -> NamedHead:
        """The head of NAME, NAME@VERSION or hub id. Raises RstitchError, naming the field, also if it does not fit."""
        plain, version = split_name(name)
        found = self._find(plain, version)
        if found is None:
            raise self._unknown(plain, version)
        check_fit(name, found.facts, self._slm())
        return NamedHead(plain, found)

    def states(self, elsewhere: Container[str] = ()) -> list[HeadState]:
        """All heads of the folder, sorted by name, also those that cannot be asked for.

        A name that stands for a head `elsewhere`, or one with a version, stands for none of them.
        """
        slm = self._slm()
        states: list[HeadState] = []
        for path in sorted(self._folder.glob(f"*/{FILE}") if self._folder is not None else ()):
            name = path.parent.name
            active = "@" not in name and name not in elsewhere
            try:
                head = self._load(path)
            except RstitchError as error:
                states.append(HeadState(name, "", 0.0, error.message, active=active))
                continue
            if head is not None:
                facts = head.facts
                detail = facts.misfit(slm.hidden_size, slm.fingerprint) if slm is not None else ""
                states.append(HeadState(name, head.version, facts.tau, detail, facts.features, active))
        return states

    def _find(self, name: str, version: str | None) -> Head | None:
        if "/" in name:
            paths = [self._fetch(name)]
        elif self._folder is None:
            return None
        else:
            paths = [self._folder / name / FILE]
            if version is not None:
                paths.append(self._folder / f"{name}@{version}" / FILE)
        heads = [head for path in paths if (head := self._load(path)) is not None]
        return next((head for head in heads if version in (None, head.version)), None)

    def _load(self, path: Path) -> Head | None:
        """The head in a file as it is now; None if there is no file. Raises RstitchError (FAILED_PRECONDITION) else."""
        try:
            facts = path.stat()
            seen = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            before = self._read.get(path)
            if before is not None and before[0] == seen:
                return before[1]
            data = path.read_bytes()
            if before is None or before[1].version != version_of(data):
                before = (seen, Head.from_bytes(data))
        except FileNotFoundError:
            self._read.pop(path, None)
            return None
        except (OSError, HeadFileError) as error:
            _log.warning("head cannot be used", path=str(path), error=str(error))
            why = error if isinstance(error, HeadFileError) else error.strerror or "it cannot be read"
            what = f"the head in {path.parent.name}/{path.name} cannot be used: {why}."
            remedy = "Put a head there that `rstitch train-head` made, or name another."
            raise _error(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_UNREADABLE", what, remedy) from error
        self._read[path] = (seen, before[1])
        return before[1]

    def _fetch(self, repository: str) -> Path:
        """The file of a repository on the hub, once per process. Raises RstitchError (NOT_FOUND)."""
        if repository not in self._hub:
            what = f"the head {repository} is of the hub, and none that this router may fetch."
            remedy = "Name a head of the router, or have its operator name the repository in --heads-from-hub."
            raise _error(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", what, remedy)
        if repository not in self._fetched:
            from huggingface_hub import hf_hub_download  # slow to import, and few need it
            from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

            try:
                self._fetched[repository] = Path(hf_hub_download(repository, FILE))
            except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
                _log.warning("head not had from the hub", repository=repository, error=str(error))
                what = f"the hub has no head {repository} that can be had; the router's log says why."
                remedy = f"Name a repository that holds {FILE}, or a head of the router's folder."
                raise _error(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", what, remedy) from error
        return self._fetched[repository]

    def _unknown(self, name: str, version: str | None) -> RstitchError:
        has = self._folder is not None
        where = "in the router's folder (--heads)" if has else "as the router has no folder of heads (--heads)"
        names = ", ".join(state.name for state in self.states()) or "none"
        what = f"the head {name} has no version {version} any more" if version else f"there is no head {name}"
        remedy = f"Name one of these: {names}; or put it there as {name}{'@' + version if version else ''}/{FILE}."
        return _error(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", f"{what} {where}.", remedy)


def _error(code: grpc.StatusCode, reason: str, what: str, remedy: str, field: str = FIELD) -> RstitchError:
    return RstitchError(code, reason, what, field=field, remedy=remedy)
