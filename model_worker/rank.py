"""The process of a rank other than 0: its part of a divided model, stepped as rank 0 says. It serves nobody.

It is told by one line on its standard input what it is, and ends when that input does: then rank 0 is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading


def main() -> None:
    """Runs a rank until rank 0 ends; the entry point of `python -m model_worker.rank`."""
    # These are for rank 0, which lets answers end that this rank computes with it.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    line = sys.stdin.readline()
    if not line:
        return
    # Not later: what is imported below takes seconds, and a rank without a worker should not take cards or cores.
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    _follow(json.loads(line))


def _end_with_rank_0() -> None:
    while sys.stdin.readline():
        pass
    os._exit(0)


def _follow(told: dict[str, object]) -> None:
    from pathlib import Path

    import structlog
    import torch
    import transformers

    from model_worker.build import prepare
    from model_worker.engine.errors import RanksLost, UnsupportedModel
    from model_worker.engine.ranks.following import follow
    from model_worker.engine.ranks.group import TorchRanks
    from model_worker.settings import WorkerSettings
    from model_worker.tokenizer import load_tokenizer
    from rstitch.errors import RstitchError
    from rstitch.service.logs import setup_logging

    settings = WorkerSettings.model_validate(told["settings"])
    rank = int(str(told["rank"]))
    setup_logging(f"{told['name']}-worker", settings.log_level)
    structlog.contextvars.bind_contextvars(rank=rank)
    log = structlog.get_logger(__name__)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        ranks = TorchRanks(rank, settings.tp, torch.device(settings.device), Path(str(told["meeting"])))
        made = prepare(settings, load_tokenizer(settings.model), ranks)
        follow(made.loaded, made.limits, ranks)
    except (UnsupportedModel, RstitchError) as error:
        log.error("cannot start", error=str(error))
    except RanksLost as error:
        log.error("cannot go on", error=str(error))
    except Exception:
        log.exception("a step failed")
    sys.stderr.flush()
    # Not by the interpreter's end: there gloo looks for the file by which all have met, which may be gone.
    os._exit(1)


if __name__ == "__main__":
    main()
