"""Is the engine's path the model's own? The same prompt goes through both before anything is served.

The model's own logits must be taken before a `Runner` is made: that one puts the engine's attention into the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.calling import keeps_logits
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.outcome import Outcome
from model_worker.engine.forward.runner import Runner
from model_worker.engine.types import Limits, Returns, RunRequest

# Largest difference of logits between the engine's path and the model's own: the root of the mean square of the
# difference over that of the logits. (Eager attention makes its softmax in float32 even for a float64 model.)
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
# In 16 bits rounding alone makes a difference that depends on the model: 0.4% to 5% were seen. It is measured, as that
# of the model's own two attentions, and the engine may differ by more: its sums have another order again. What is wrong
# in a kernel, such as a key too few, makes ten times the difference that rounding makes. The same goes for products
# that round what they multiply to 8 bits, in any dtype.
_SIXTEEN_BIT_FACTOR, _SIXTEEN_BIT_LEAST, _SIXTEEN_BIT_MOST = 4.0, 1e-2, 0.25
_SIXTEEN_BIT_UNMEASURED = 8e-2
_NUM_TOKENS = 24
# A prompt that goes beyond the shortest window shows that it is one; longer ones than this only if they are asked for.
_MOST_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model's own attention gives after the last tokens of the prompt, [tokens, num_logits], and how near."""

    logits: Tensor
    tolerance: float


def parity_tokens(loaded: LoadedModel, limits: Limits) -> list[int]:
    """Returns a prompt that fits the context. Raises UnsupportedModel if that has no room for two tokens.

    It goes beyond the shortest window, where the model has any, if that takes at most `_MOST_TOKENS` tokens.
    """
    shortest = min((shape.reach.most_keys for shape in loaded.shapes if shape.reach.is_limited), default=0)
    wanted = limits.check_tokens or (shortest + _NUM_TOKENS if shortest + _NUM_TOKENS <= _MOST_TOKENS else _NUM_TOKENS)
    count = min(max(wanted, _NUM_TOKENS), limits.context_length)
    if count < 2:
        raise UnsupportedModel(
            f"{type(loaded.module).__name__}: a context of {count} is too short; "
            "give more --context-length or --num-pages"
        )
    return [(7 * index + 3) % limits.vocab_size for index in range(count)]


def parity_request(tokens: Sequence[int], shallow: bool = False) -> RunRequest:
    """Returns the run that asks for the distribution after the prompt."""
    return RunRequest("parity", 0, tokens, returns=Returns(), shallow=shallow)


@contextmanager
def parity_session(table: SessionTable, tokens: Sequence[int]) -> Iterator[Session]:
    """Opens a session that holds the prompt, and closes it at the end."""
    session = table.open("parity")
    session.tokens.extend(tokens)
    yield session
    table.close(session)


def reference_logits(loaded: LoadedModel, tokens: Sequence[int]) -> Reference:
    """Returns the logits by the model's own eager attention; leaves that or `sdpa` in the model."""
    eager = _own_logits(loaded, tokens, "eager")
    tolerance = None if loaded.rounds_activations else _TOLERANCE.get(loaded.dtype)
    if tolerance is not None:  # states may be kept with fewer digits than the model has
        kept = {state.dtype for layer in loaded.states for state in layer.states}
        tolerance = max([tolerance, *(_TOLERANCE.get(dtype, tolerance) for dtype in kept)])
    if tolerance is None:
        try:
            noise = _difference(_own_logits(loaded, tokens, "sdpa"), eager)
        except ValueError:  # the model has no other attention to measure its rounding by
            tolerance = _SIXTEEN_BIT_UNMEASURED
        else:
            tolerance = min(_SIXTEEN_BIT_FACTOR * noise + _SIXTEEN_BIT_LEAST, _SIXTEEN_BIT_MOST)
    return Reference(eager, tolerance)


def check_parity(name: str, runner: Runner, table: SessionTable, run: Run, reference: Reference, most: int) -> None:
    """Computes a run by each path that steps take here, in rows of `most` tokens at most.

    Raises UnsupportedModel if a logit is not the reference's.

    The paths are captured graphs, where there are any, and uncaptured steps, which whatever fits no graph takes.
    """
    session, count = run.session, run.num_pending
    before = max(0, count - _NUM_TOKENS)
    half = before + (count - before) // 2

    def compute(until: int, *, is_last: bool, captured: bool) -> Outcome | None:
        start = run.num_computed
        assert table.reserve(session, until, run.cuts(until - start)), "the first session finds its room"
        outcome = runner.run([Row(run, start, until - start, is_last)], captured=captured)
        run.computed(until - start)
        return outcome

    # What goes beyond a window first. Then two chunks, so that the second one also reads keys, values and states that a
    # step before has written; the first asks for nothing, as catch-up does, the second for all that it can be asked
    # for. Then the last token again, as decode: the states before it are not those after it.
    for captured in (True, False) if runner.graphs is not None else (False,):
        path = "captured" if captured else "uncaptured"
        if run.num_pending == 0:
            runner.wipe(session.pages)  # what the path before has left must not be found
            table.uncompute(session, 0)
        for until in (*range(most, before, most), before, half):
            if run.num_computed < until:
                compute(until, is_last=False, captured=captured)
                table.leave_windows(session)
        run.draft = session.tokens[half + 1 : count]
        _compare(name, path, compute(count, is_last=True, captured=captured), reference)
        run.draft = ()
        table.uncompute(session, count - 1)
        _compare(name, path, compute(count, is_last=True, captured=captured), reference)


def _own_logits(loaded: LoadedModel, tokens: Sequence[int], attention: str) -> Tensor:
    loaded.module.set_attn_implementation(attention)
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=loaded.device)
        keep = {"logits_to_keep": _NUM_TOKENS} if keeps_logits(loaded.module) else {}
        logits: Tensor = loaded.module(input_ids=ids, use_cache=False, **keep).logits[0]
    return logits[-_NUM_TOKENS:]


def _compare(name: str, path: str, outcome: Outcome | None, reference: Reference) -> None:
    """Compares the distributions of a step with those after the last tokens of the prompt."""
    assert outcome is not None
    ours = outcome.logits[list(outcome.index)]
    difference = _difference(ours, reference.logits[-len(ours) :, : ours.shape[-1]])
    if not difference <= reference.tolerance:  # so that NaN fails, too
        raise UnsupportedModel(
            f"{name}: the engine's logits ({path} steps) differ from the model's own by {difference:.1e}, "
            f"more than {reference.tolerance:.1e}; not served"
        )


def _difference(ours: Tensor, expected: Tensor) -> float:
    size = torch.linalg.vector_norm(expected.double()).clamp_min(1e-6)
    return float(torch.linalg.vector_norm(ours.double() - expected.double()) / size)
