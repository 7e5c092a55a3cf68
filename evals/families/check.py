"""One family: an engine over a tiny random model of it, beside transformers' own `generate`, token for token."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from evals.families.sizes import CONTEXT_LENGTH, NUM_TOKENS, VOCAB_SIZE, WINDOW
from evals.families.tiny import tiny_config, tiny_model
from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import LoadedModel, adopt
from model_worker.engine.types import Limits, RunFailed, RunRequest, TokenKept

# Of the prompts: shorter and longer than a window, than a forward takes, and just as long.
LENGTHS = (1, 2, 3, 5, 8, 12, WINDOW - 1, WINDOW, WINDOW + 1, 20, 25, 33, 40, 50, 64, 90)
MAX_BATCH_TOKENS = 40
_FIRST, _SECOND = 16, 8  # tokens of the first runs, and of those that go on from there
_DRAFTING, _TAKEN_BACK, _BACK = 11, (9, 14), 10  # which sessions are told a draft or taken back, and how far
_TIE = 1e-4  # logits so near in float32 that either token is right


class Verdict(StrEnum):
    """What became of a family."""

    EXACT = "exact"
    REFUSED = "refused"
    WRONG = "wrong"
    NOT_BUILT = "not built"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A family's verdict, and what there is to say of it."""

    family: str
    verdict: Verdict
    why: str = ""  # in the engine's own words where it refuses
    model: str = ""  # the name of its class
    dtype: str = ""
    sees: str = ""  # what its layers see, if not everything, and whether they keep states
    num_distinct: int = 0  # ids among the tokens that were compared
    num_ties: int = 0  # answers that were compared up to a tie
    seconds: float = 0.0


def check(family: str) -> Outcome:
    """Examines a family, a `model_type` of transformers, in float64, or in float32 where that does not run."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    begin = time.perf_counter()
    outcome = check_in(family, torch.float64)
    if outcome.verdict is Verdict.NOT_BUILT or "torch.float64 failed" in outcome.why:
        again = check_in(family, torch.float32)
        outcome = again if again.verdict is not Verdict.NOT_BUILT else outcome
    return replace(outcome, seconds=round(time.perf_counter() - begin, 1))


def check_in(family: str, dtype: torch.dtype) -> Outcome:
    """Examines a family in one dtype; in float32 tokens between whose logits the model itself sees a tie may differ."""
    outcome = Outcome(family, Verdict.NOT_BUILT, dtype=str(dtype).removeprefix("torch."))
    try:
        model = _build(family, dtype)
    except Exception as error:  # noqa: BLE001 - whatever its code raises
        return replace(outcome, why=_said(error))
    outcome = replace(outcome, model=type(model).__name__)
    served = copy.deepcopy(model)  # the engine puts its own attention into what it serves
    try:
        loaded = adopt(served, CONTEXT_LENGTH)
        engine = Engine(loaded, Limits(NUM_TOKENS, CONTEXT_LENGTH, num_pages=256, max_batch_tokens=MAX_BATCH_TOKENS))
    except UnsupportedModel as error:
        return replace(outcome, verdict=Verdict.REFUSED, why=_said_by_engine(error, outcome.model))
    except Exception as error:  # noqa: BLE001 - no refusal: a fault of the engine's
        return replace(outcome, verdict=Verdict.WRONG, why=f"the engine raised {_said(error)}")
    prompts = _prompts()
    try:
        own = [_generate(model, prompt) for prompt in prompts]
    except Exception as error:  # noqa: BLE001 - likewise
        return replace(outcome, why=f"its own generate: {_said(error)}")
    outcome = replace(outcome, sees=_sees(loaded), num_distinct=len({token for tokens in own for token in tokens}))
    try:
        ties = _Comparison(model, prompts, own).run(engine)
    except _WrongError as error:
        return replace(outcome, verdict=Verdict.WRONG, why=str(error))
    return replace(outcome, verdict=Verdict.EXACT, num_ties=ties)


class _WrongError(Exception):
    """The engine writes something else than the model."""


def _build(family: str, dtype: torch.dtype) -> Any:
    config: PreTrainedConfig = tiny_config(family, CONFIG_MAPPING[family])
    config._experts_implementation = "eager"  # torch's grouped products know no float64
    return tiny_model(config, dtype)


def _prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, NUM_TOKENS, (length,), generator=generator).tolist() for length in LENGTHS]


def _generate(model: Any, prompt: Sequence[int]) -> list[int]:
    output = model.generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=_FIRST + _SECOND,
        suppress_tokens=list(range(NUM_TOKENS, VOCAB_SIZE)),
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


@dataclass
class _Comparison:
    """Sessions of an engine beside what the model itself wrote."""

    model: Any
    prompts: list[list[int]]
    own: list[list[int]]
    ties: set[int] = field(default_factory=set)  # sessions that went another way at a tie

    def run(self, engine: Engine) -> int:
        """Returns how many answers ended at a tie. Raises _WrongError at the first token that is wrong."""
        drafted = self.own[_DRAFTING]
        draft = {_DRAFTING: [*drafted[:4], (drafted[4] + 1) % NUM_TOKENS, 7]}
        sessions = range(len(self.prompts))
        first = [RunRequest(f"s{i}", 0, self.prompts[i], max_tokens=_FIRST) for i in sessions]
        self._compare("", _run(engine, first), dict.fromkeys(sessions, 0), dict.fromkeys(sessions, _FIRST))
        # All go on together, two of them from further back, one verifying a draft.
        starts = {i: _FIRST - _BACK if i in _TAKEN_BACK else 0 if i in draft else _FIRST for i in sessions}
        second = [
            RunRequest(
                f"s{i}", len(self.prompts[i]) + starts[i], [], max_tokens=_FIRST + _SECOND - starts[i],
                draft=draft.get(i, ()),
            )
            for i in sessions
            if i not in self.ties
        ]  # fmt: skip
        lengths = {i: 5 if i in draft else _FIRST + _SECOND - starts[i] for i in sessions}
        self._compare(" going on", _run(engine, second), starts, lengths)
        return len(self.ties)

    def _compare(
        self, when: str, results: dict[str, list[int] | Exception], starts: dict[int, int], lengths: dict[int, int]
    ) -> None:
        for name, written in results.items():
            index = int(name[1:])
            where = f"the answer to {len(self.prompts[index])} tokens{when}"
            if isinstance(written, Exception):
                raise _WrongError(f"{where} failed: {_said(written)}")
            expected = self.own[index][starts[index] :]
            at = next((i for i, pair in enumerate(zip(written, expected, strict=False)) if pair[0] != pair[1]), None)
            if at is None:
                if len(written) < lengths[index]:
                    raise _WrongError(f"{where} ends after {len(written)} tokens")
                continue
            before = self.own[index][: starts[index] + at]
            if not self._is_tie([*self.prompts[index], *before], written[at], expected[at]):
                raise _WrongError(f"{where} differs at token {starts[index] + at} of {len(self.own[index])}")
            self.ties.add(index)

    def _is_tie(self, tokens: list[int], one: int, other: int) -> bool:
        if self.model.dtype == torch.float64:
            return False
        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1, :NUM_TOKENS]
        best = float(logits.max())
        return all(best - float(logits[token]) <= _TIE for token in (one, other))


def _run(engine: Engine, requests: Sequence[RunRequest]) -> dict[str, list[int] | Exception]:
    """Runs all of them together; returns what each session wrote, or why it did not."""
    names = {engine.submit(request): request.session_id for request in requests}
    found: dict[str, list[int] | Exception] = {name: [] for name in names.values()}
    while not engine.is_idle:
        for event in engine.step():
            so_far = found[names[event.run_id]]
            if isinstance(event, TokenKept) and isinstance(so_far, list):
                so_far.append(event.token)
            elif isinstance(event, RunFailed):
                found[names[event.run_id]] = event.error
    engine.check_integrity()
    return found


def _sees(loaded: LoadedModel) -> str:
    """Says what layers see that do not see everything, or that they keep states."""
    reaches = [shape.reach for shape in loaded.shapes]
    kinds = {"a window": any(r.window for r in reaches), "chunks": any(r.chunk for r in reaches)}
    kinds["sinks"] = any(shape.has_sinks for shape in loaded.shapes)
    kinds["states"] = bool(loaded.states)
    kinds["a score cap"] = any(shape.softcap is not None for shape in loaded.shapes)
    return ", ".join(name for name, is_there in kinds.items() if is_there)


def _said_by_engine(error: Exception, name: str) -> str:
    return " ".join(str(error).removeprefix(f"{name}: ").split())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
