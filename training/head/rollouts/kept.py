"""Rollouts that outlive their process: each answer is in a file as soon as it is there, and is not asked for again.

A file is one stage's: baselines, a step of DAPO, a look at dev. Its records are framed by length and checksum, so that
what a kill left half written is found and written anew. It knows neither engines nor services.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO

from evals.latency import Run
from rstitch.client.events import Consultation
from rstitch.client.policies import Learned
from rstitch.service.head import Head
from training.head.effort import Clock
from training.head.rollouts.types import Asked, Job, Rollout, Rollouts

_FRAME = struct.Struct("<III")  # bytes of the record, of these those of JSON, checksum of the record
_SUFFIX = ".rollouts"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record stands: in memory, hidden states would be there twice."""

    path: Path
    begin: int
    size: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.begin)
            return file.read(self.size)


class KeptRollouts:
    """`Rollouts` that keeps the answers of the stage under way, and gives those that it has without asking.

    An answer is known in every stage of the folder, as long as the file of the one that it was asked in is there.
    Outside of a stage nothing is kept.

    Args:
        folder: of the files.
        clock: counts the answers that are asked for indeed, and the time that they take.
    """

    def __init__(self, rollouts: Rollouts, folder: Path, clock: Clock) -> None:
        self._rollouts = rollouts
        self._folder = folder
        self._clock = clock
        self._file: BinaryIO | None = None
        self._known: dict[str, _Place] = {}

    @contextmanager
    def stage(self, name: str, *, forget: bool = False) -> Iterator[None]:
        """Keeps what is asked for in the block under this name.

        Args:
            forget: removes the file when the block ends well: its outcome is kept elsewhere.
        """
        assert self._file is None, "one stage at a time"
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as self._file:
            try:
                for each in sorted(self._folder.glob(f"*{_SUFFIX}")):
                    known, end = _read(each)
                    self._known |= known
                    if each == path:
                        self._file.truncate(end)  # behind it lies what a kill left half written
                self._file.seek(0, os.SEEK_END)
                yield
            finally:
                self._file, self._known = None, {}
        if forget:
            self.forget(name)

    def forget(self, name: str) -> None:
        """Removes a stage's file, if there is one."""
        self._path(name).unlink(missing_ok=True)

    def use(self, head: Head) -> str:
        """Makes a head known; returns the name under which `Learned` finds it."""
        return self._rollouts.use(head)

    def run(
        self, jobs: Sequence[Job], policy: Asked, on_done: Callable[[Rollout], None] = lambda rollout: None
    ) -> list[Rollout]:
        """Gives the answers, in the order of the jobs: those of the files at once, the others as they come."""
        keys = [_key(job, policy) for job in jobs]
        counts = Counter(keys)
        done: dict[str, Rollout] = {}
        left: dict[str, Job] = {}

        def tell(key: str, rollout: Rollout) -> None:
            done[key] = rollout
            for _ in range(counts[key]):
                on_done(rollout)

        def take(rollout: Rollout) -> None:
            key = _key(Job(rollout.problem, rollout.explore_seed, rollout.llm_tokens), policy)
            self._append(key, rollout)
            self._clock.answered()
            tell(key, rollout)

        for key, job in zip(keys, jobs, strict=True):
            known = self._known.get(key)
            if known is None:
                left.setdefault(key, job)
            elif key not in done:
                tell(key, _rollout(known.read(), job))
        if left:
            with self._clock.waiting():
                self._rollouts.run(list(left.values()), policy, take)
        return [done[key] for key in keys]

    def _append(self, key: str, rollout: Rollout) -> None:
        if self._file is None:
            return
        record = _record(key, rollout)
        self._known[key] = _Place(Path(self._file.name), self._file.tell(), len(record))
        self._file.write(record)
        self._file.flush()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"


def _key(job: Job, policy: Asked) -> str:
    """Names what an answer is a function of."""
    seed = job.explore_seed
    if seed is None and isinstance(policy, Learned):
        seed = policy.explore_seed
    problem = job.problem
    told = repr((policy, seed, job.llm_tokens, problem.index, problem.id, problem.prompt))
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def _record(key: str, rollout: Rollout) -> bytes:
    asked = rollout.consultations
    plain = {
        "key": key,
        "text": rollout.text,
        "right": rollout.right,
        "latency_ms": rollout.latency_ms,
        "num_tokens": rollout.num_tokens,
        "num_llm_tokens": rollout.num_llm_tokens,
        "runs": [astuple(run) for run in rollout.runs],
        "session_id": rollout.session_id,
        "num_consultations": rollout.num_consultations,
        # Hidden states follow as they are.
        "consultations": [
            [c.position, c.entropy, c.proposal, c.features, c.probability, c.to_llm, c.context_length] for c in asked
        ],
    }
    told = json.dumps(plain).encode()
    body = told + b"".join(each.hidden_state for each in asked)
    return _FRAME.pack(len(body), len(told), zlib.crc32(body)) + body


def _rollout(record: bytes, job: Job) -> Rollout:
    _, num_told, _ = _FRAME.unpack_from(record)
    end = _FRAME.size + num_told
    plain, states = json.loads(record[_FRAME.size : end]), record[end:]
    size = len(states) // max(1, len(plain["consultations"]))
    consultations = tuple(
        Consultation(position, states[at : at + size], entropy, proposal, tuple(features), probability, to_llm, length)
        for at, (position, entropy, proposal, features, probability, to_llm, length) in zip(
            range(0, len(states), max(1, size)), plain["consultations"], strict=True
        )
    )
    return Rollout(
        job.problem,
        plain["text"],
        plain["right"],
        plain["latency_ms"],
        plain["num_tokens"],
        plain["num_llm_tokens"],
        tuple(Run(*run) for run in plain["runs"]),
        consultations,
        plain["session_id"],
        job.explore_seed,
        job.llm_tokens,
        plain.get("num_consultations", len(consultations)),
    )


def _read(path: Path) -> tuple[dict[str, _Place], int]:
    """Finds all whole records, by their keys, and the end of the last of them."""
    known: dict[str, _Place] = {}
    end = 0
    with path.open("rb") as file:
        while len(frame := file.read(_FRAME.size)) == _FRAME.size:
            num_bytes, num_told, checksum = _FRAME.unpack(frame)
            body = file.read(num_bytes)
            if len(body) < num_bytes or zlib.crc32(body) != checksum:
                break
            known[json.loads(body[:num_told])["key"]] = _Place(path, end, _FRAME.size + num_bytes)
            end = file.tell()
    return known, end
