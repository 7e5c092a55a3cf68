"""What a worker said of itself, as the router's own values. It makes no call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from router_svc.policies.early_exit import ExitStyle
from router_svc.text.tokenizer import TokenizerFiles
from router_svc.trajectory.types import Model
from router_svc.workers.runs import WorkerInfo, WorkerRoom
from rstitch.errors import RstitchError

# Fields that GetInfoResponse has under the same names.
_FIELDS = (
    *("model", "vocab_size", "context_length", "dtype", "device", "num_parameters", "instance_id", "hidden_size"),
    *("head_terms", "grammars", "weights_fingerprint", "worker_id", "draining"),
)


def info_of(message: Any) -> WorkerInfo:
    """What a GetInfoResponse says. Raises RstitchError (FAILED_PRECONDITION) for a role that nobody knows."""
    room = message.capacity
    return WorkerInfo(
        role=_role(message.role),
        fingerprint=message.tokenizer_fingerprint,
        stop_tokens=frozenset(message.stop_tokens),
        num_cards=max(1, message.num_cards),
        # An older worker does not say what idle sessions would give away.
        room=WorkerRoom(
            room.num_pages, room.num_available_pages or room.num_free_pages, room.num_runs, room.num_sessions
        ),
        **{name: getattr(message, name) for name in _FIELDS},
    )


def files_of(messages: Sequence[Any]) -> TokenizerFiles:
    """What GetTokenizerResponses say, at least one: the first one says all but the rest of the data."""
    first = messages[0]
    style = first.early_exit
    return TokenizerFiles(
        data=b"".join(message.data for message in messages),
        chat_template=first.chat_template,
        special_tokens=dict(first.special_tokens),
        named_templates=dict(first.named_templates),
        early_exit=ExitStyle(tuple(style.boundaries), style.prompt, style.end, style.thinking_end),
    )


def _role(number: int) -> Model | None:
    try:
        return Model(number) if number else None
    except ValueError:
        what = f"it says that its role is {number}, which is none"
        raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_ROLE", what) from None
