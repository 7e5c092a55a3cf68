"""Each family in a process of its own, under a time limit: what one does to the process hits no other.

All are forked of one process that has imported torch and transformers, and computed nothing.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection

from transformers import logging

from evals.families.check import Outcome, Verdict, check

_CONTEXT = multiprocessing.get_context("forkserver")


def check_each(families: Sequence[str], jobs: int, limit_s: float) -> Iterator[Outcome]:
    """Yields the families' outcomes as they come, of `jobs` at a time."""
    _CONTEXT.set_forkserver_preload([__name__])
    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(_in_child, family, limit_s) for family in families]):
            yield done.result()


def _in_child(family: str, limit_s: float) -> Outcome:
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    child = _CONTEXT.Process(target=_answer, args=(family, sender), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            return Outcome(family, Verdict.NOT_BUILT, f"not done within {limit_s:.0f} s")
        outcome: Outcome = receiver.recv()
    except EOFError:  # it died: whatever did that would have ended a worker, too
        child.join()
        return Outcome(family, Verdict.WRONG, f"its process ended with {child.exitcode}")
    finally:
        receiver.close()
        child.kill()
        child.join()
    return outcome


def _answer(family: str, sender: Connection) -> None:
    logging.set_verbosity_error()
    sender.send(check(family))
