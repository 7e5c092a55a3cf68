"""Is the engine's path the model's own? The same prompt goes through both before anything is served.

The model's own logits must be taken before a `Runner` is made: that one puts the engine's attention into the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.scheduler import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.runner import Runner
from model_worker.engine.types import Limits, Returns, RunRequest

# Largest difference of a logit between the engine's path and the model's own, relative to the largest logit.
# (Eager attention makes its softmax in float32 even for a float64 model.)
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 8e-2}
_NUM_TOKENS = 24


def parity_tokens(name: str, limits: Limits) -> list[int]:
    """Returns a prompt that fits the context. Raises UnsupportedModel if that has no room for two tokens."""
    count = min(_NUM_TOKENS, limits.context_length)
    if count < 2:
        raise UnsupportedModel(f"{name}: a context of {count} is too short; give more --context-length or --num-pages")
    return [(7 * index + 3) % limits.vocab_size for index in range(count)]


def parity_request(tokens: Sequence[int], shallow: bool = False) -> RunRequest:
    """Returns the run that asks for the distribution after the prompt."""
    return RunRequest("parity", 0, tokens, returns=Returns(), shallow=shallow)


@contextmanager
def parity_session(table: SessionTable, tokens: Sequence[int]) -> Iterator[Session]:
    """Opens a session that holds the prompt and its pages, and closes it at the end."""
    session = table.open("parity")
    session.tokens.extend(tokens)
    assert table.reserve(session, len(tokens)), "the first session finds its pages"
    yield session
    table.close(session)


def reference_logits(loaded: LoadedModel, tokens: Sequence[int]) -> Tensor:
    """Returns the logits after the last token by the model's own eager attention, [num_logits]."""
    loaded.module.set_attn_implementation("eager")
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=loaded.device)
        logits: Tensor = loaded.module(input_ids=ids, use_cache=False).logits[0, -1]
    return logits


def check_parity(name: str, runner: Runner, run: Run, reference: Tensor) -> None:
    """Computes a run in two chunks. Raises UnsupportedModel if its last logits are not the reference's.

    Two, so that the second chunk also reads keys and values that an earlier step has written.
    """
    count = run.num_pending
    half = count // 2
    runner.run([Row(run, 0, half, is_last=False)])
    run.computed(half)
    outcome = runner.run([Row(run, half, count - half, is_last=True)])
    run.computed(count - half)
    assert outcome is not None
    ours = outcome.logits[outcome.index[0]]
    ours = ours.to(torch.promote_types(ours.dtype, torch.float32))
    expected = reference[: ours.shape[-1]].to(ours.dtype)
    difference = float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not difference <= _TOLERANCE[reference.dtype]:  # so that NaN fails, too
        raise UnsupportedModel(
            f"{name}: the engine's logits differ from the model's own by {difference:.1e}; not served"
        )
