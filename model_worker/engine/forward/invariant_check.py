"""Does a token get the same bits alone and beside others, decoded and in a chunk? Tried out before anything is served.

A random session is computed in several ways; its last distributions must be equal in every bit each time. Those depend
on all its keys and values, so that these are compared, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.runner import Runner
from model_worker.engine.types import Limits, Returns, RunRequest

MakeRun = Callable[[RunRequest, Session], Run]

_NUM_TOKENS = 40
_NUM_ASKED = 6
_CHUNK = 7  # of no friendly size, so that chunks end within blocks of anything
_COMPANIONS = (1, 1, 3, 1, 9, 2)  # tokens of the first row of each session beside; later ones decode


class _Trial:
    """One session and its companions, and the forwards that compute them."""

    def __init__(
        self, runner: Runner, table: SessionTable, make_run: MakeRun, limits: Limits, *, shallow: bool
    ) -> None:
        self._runner = runner
        self._table = table
        self._make_run = make_run
        self._shallow = shallow
        self._vocab_size = limits.vocab_size
        self._numbers = itertools.count()

    @contextmanager
    def session(self, num_tokens: int, seed: int) -> Iterator[Run | None]:
        """Opens a session of random tokens; None if there are no pages for it."""
        session = self._table.open(f"invariance {next(self._numbers)}")
        generator = torch.Generator().manual_seed(seed)
        session.tokens.extend(torch.randint(self._vocab_size, (num_tokens,), generator=generator).tolist())
        session.running = True
        request = RunRequest(session.session_id, 0, (), returns=Returns(), shallow=self._shallow)
        try:
            yield self._make_run(request, session) if self._table.reserve(session, num_tokens) else None
        finally:
            session.running = False
            self._table.close(session)

    def compute(self, rows: list[tuple[Run, int]], asked: Run | None = None) -> Tensor:
        """Puts so many tokens of each run through the model; returns the distributions of `asked`.

        Without `asked` none is computed; with it every run's is, as in a step that decodes.
        """
        batch = [Row(run, run.num_computed, num, is_last=asked is not None) for run, num in rows]
        outcome = self._runner.run(batch)
        for run, num in rows:
            run.computed(num)
        if asked is None:
            return torch.empty(0)
        assert outcome is not None
        # The runner has sorted the batch; each row's distributions follow those of the rows before.
        before = sum(row.run.num_asked for row in itertools.takewhile(lambda row: row.run is not asked, batch))
        return torch.stack([outcome.logits[row] for row in outcome.index[before : before + asked.num_asked]]).clone()


def check_invariance(
    name: str, runner: Runner, table: SessionTable, limits: Limits, make_run: MakeRun, *, shallow: bool = False
) -> None:
    """Raises UnsupportedModel if a token's distribution depends on how, or beside whom, it is computed."""
    trial = _Trial(runner, table, make_run, limits, shallow=shallow)
    length = min(_NUM_TOKENS, limits.context_length, limits.num_pages * limits.page_size)
    asked = min(_NUM_ASKED, length - 1)
    ways: dict[str, Callable[[], Tensor]] = {
        "as a draft, after chunks,": lambda: _drafted(trial, length, asked),
        "among other sessions": lambda: _among_others(trial, length, asked, after=False),
        "after other sessions": lambda: _among_others(trial, length, asked, after=True),
    }
    alone = _alone(trial, length, asked)
    for way, compute in ways.items():
        logits = compute()
        if not torch.equal(logits, alone):
            difference = float((logits.double() - alone.double()).abs().max())
            raise UnsupportedModel(
                f"{name}: --batch-invariant does not hold here: computed {way} a token's logits differ by "
                f"{difference:.1e} from those alone; start without it, or with --threads 1"
            )


def _alone(trial: _Trial, length: int, asked: int) -> Tensor:
    with trial.session(length, seed=1) as run:
        assert run is not None, "the first session finds its pages"
        trial.compute([(run, length - asked)])
        return torch.cat([trial.compute([(run, 1)], run) for _ in range(asked)])


def _drafted(trial: _Trial, length: int, asked: int) -> Tensor:
    with trial.session(length, seed=1) as run:
        assert run is not None, "the first session finds its pages"
        for begin in range(0, length - asked, _CHUNK):
            trial.compute([(run, min(_CHUNK, length - asked - begin))])
        run.draft = run.session.tokens[length - asked + 1 :]
        return trial.compute([(run, asked)], run)


def _among_others(trial: _Trial, length: int, asked: int, *, after: bool) -> Tensor:
    """Decodes the session with companions before it or after it in the batch, of which one more joins at each step."""
    made = []
    with ExitStack() as stack:
        run = stack.enter_context(trial.session(length, seed=1))
        assert run is not None, "the first session finds its pages"
        opened = [
            stack.enter_context(trial.session(num_tokens + asked, seed))
            for seed, num_tokens in enumerate(_COMPANIONS, start=2)
        ]
        companions = [other for other in opened if other is not None]
        for step in range(asked + 1):
            own = [(run, 1 if step else length - asked)]
            beside = [
                (other, 1 if other.num_computed else _COMPANIONS[place]) for place, other in enumerate(companions)
            ]
            beside = beside[: step + 2]
            made.append(trial.compute([*beside, *own] if after else [*own, *beside], run if step else None))
    return torch.cat(made[1:])
