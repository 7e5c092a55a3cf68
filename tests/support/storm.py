"""A storm of runs over few sessions of an engine with little room, and the model itself as the judge of each token."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch

from model_worker.engine.engine import Engine
from model_worker.engine.errors import ForwardFailed, NoCapacity, SessionClosed
from model_worker.engine.observing import Observe
from model_worker.engine.types import ForkRequest, Returns, RunFailed, RunRequest
from tests.support.engines import Result, collect
from tests.support.pairs import CONTEXT_LENGTH, VOCAB_SIZE

SPOILT = 299  # the token that stands for what is not finite, where a storm has one
_MOST_STEPS = 3000  # of the runs that are there, until one of them ends
_LONGEST = CONTEXT_LENGTH - 60  # tokens that are sent
_NO_STOP = frozenset([VOCAB_SIZE - 1])


@dataclass
class Storm:
    """What is going on, and what every session should hold."""

    engine: Engine
    model: Any  # the engine's own, untouched
    rng: random.Random
    spoils: bool = False
    held: dict[str, list[int]] = field(default_factory=dict)
    said: dict[str, list[int]] = field(default_factory=dict)  # the longest that a session ever was
    results: dict[int, Result] = field(default_factory=dict)
    requests: dict[int, RunRequest] = field(default_factory=dict)
    num_checked: int = 0
    num_refused: int = 0

    def blow(self, num_runs: int) -> None:
        """Submits so many runs, some while others go on, and checks whatever comes of them."""
        for _ in range(num_runs):
            self._submit()
            for _ in range(self.rng.choice([0, 0, 1, 3, 40])):
                self._step()
            if self.rng.random() < 0.1:
                self._break_off()
            if self.rng.random() < 0.15:
                self._fork()
        self._drain()
        for name in list(self.held):
            self.engine.close_session(name)
        self.engine.check_integrity()
        assert self.engine.capacity.num_sessions == 0

    def _submit(self) -> None:
        rng, name = self.rng, f"s{self.rng.randrange(6)}"
        if any(request.session_id == name for request in self.requests.values()):
            return
        known = self.engine._table.get(name)
        tokens = self.held.get(name, []) if known is not None else []
        assert known is None or list(known.tokens) == tokens, "a session holds other tokens than it was given"
        back = rng.choice([0, 0, 0, 1, 2, 5, rng.randrange(80), rng.randrange(300)])
        position = max(0, len(tokens) - back)
        if len(tokens) > _LONGEST:
            position = rng.randrange(_LONGEST)
        num_more = rng.choice([0, 1, 1, 3, 17, 60, rng.randrange(250)]) if tokens else rng.randrange(1, 300)
        more = [rng.randrange(3, 290) for _ in range(min(num_more, _LONGEST - position))]
        said = self.said.get(name, [])
        if rng.random() < 0.4 and said[:position] == tokens[:position]:  # what it has been before
            more = said[position : min(_LONGEST, position + rng.randrange(200))]
        if self.spoils and rng.random() < 0.1 and more:
            more[rng.randrange(len(more))] = SPOILT
        if position + len(more) == 0:
            more = [rng.randrange(3, 290)]
        end = position + len(more)
        sent = [*tokens[:position], *more]
        options: dict[str, Any] = {}
        match rng.randrange(8):
            case 0:
                options = {"returns": Returns()}
            case 1:
                options = {}  # catch-up
            case 2:
                options = {"observe": Observe(rng.randint(max(1, end - 50), end), -1.0)}
            case 3:
                options = {"max_tokens": rng.randint(1, 30), "background": True}
            case 4 | 5:
                right = said[end : end + rng.randint(1, 14)] if said[:end] == sent else []
                wrong = [rng.randrange(3, 290) for _ in range(rng.choice([0, 1, 1, 5]))]
                options = {"max_tokens": 40, "draft": [*right, *wrong]}
            case _:
                options = {"max_tokens": rng.randint(1, 40)}
        request = RunRequest(name, position, more, stop_tokens=_NO_STOP, **options)
        run_id = self.engine.submit(request)
        self.held[name] = sent
        self.results[run_id], self.requests[run_id] = Result(), request

    def _step(self) -> None:
        if self.engine.is_idle:
            return
        collect(self.engine, self.results)
        self.engine.check_integrity()
        for run_id, result in list(self.results.items()):
            if result.finished is not None or result.error is not None:
                self._ended(run_id, result)

    def _drain(self) -> None:
        for _ in range(_MOST_STEPS):
            if self.engine.is_idle:
                return
            self._step()
        raise AssertionError("the runs do not come to an end")

    def _break_off(self) -> None:
        if not self.requests:
            return
        run_id = self.rng.choice(list(self.requests))
        result, request = self.results[run_id], self.requests[run_id]
        match self.rng.randrange(3):
            case 0:
                self.engine.cancel(run_id)
            case 1:
                self.engine.supersede(run_id)
            case _:
                _, events = self.engine.close_session(request.session_id)
                assert all(isinstance(event, RunFailed) and isinstance(event.error, SessionClosed) for event in events)
        self._ended(run_id, result)

    def _fork(self) -> None:
        source, name = f"s{self.rng.randrange(6)}", f"s{self.rng.randrange(6)}"
        busy = {request.session_id for request in self.requests.values()}
        known = self.engine._table.get(source)
        if source == name or name in busy or source in busy or known is None or not known.held:
            return
        position = max(1, known.held - self.rng.choice([0, 1, 4, self.rng.randrange(200)]))
        self.engine.fork_session(ForkRequest(source, name, position))
        self.engine.check_integrity()
        self.held[name], self.said[name] = self.held[source][:position], self.said.get(source, [])

    def _ended(self, run_id: int, result: Result) -> None:
        request = self.requests.pop(run_id)
        del self.results[run_id]
        name = request.session_id
        before = self.held[name]
        tokens = self.held[name] = [*before, *result.tokens]
        spoilt = self.spoils and SPOILT in before
        if result.error is not None:
            is_spoilt = self.spoils and SPOILT in tokens and isinstance(result.error, ForwardFailed)
            assert isinstance(result.error, NoCapacity) or is_spoilt, result.error
            self.num_refused += isinstance(result.error, NoCapacity)
            return
        if spoilt:
            assert not result.tokens, "a token after what is not finite"
            return
        if self.spoils and SPOILT in tokens[:-1]:
            raise AssertionError("what is not finite was passed over")
        known = self.engine._table.get(name)
        assert known is None or list(known.tokens) == tokens
        if len(tokens) >= len(self.said.get(name, [])) or self.rng.random() < 0.5:
            self.said[name] = tokens
        if not (result.tokens or result.observed or request.returns is not None):
            return
        with torch.inference_mode():
            own = self.model(torch.tensor([tokens]), use_cache=False).logits[0, :, :VOCAB_SIZE].argmax(-1).tolist()
        end = len(before)
        assert result.tokens == own[end - 1 : len(tokens) - 1], (request, result.tokens)
        if result.finished is not None and result.finished.proposal is not None:
            assert result.finished.proposal.token == own[-1], request
        for observed in result.observed:
            for position, token in zip(observed.positions, observed.tokens, strict=True):
                assert token == own[position - 1], (request, position)
                self.num_checked += 1
        self.num_checked += len(result.tokens)
