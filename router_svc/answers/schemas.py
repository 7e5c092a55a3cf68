"""Answers that are held to a JSON schema: whether these two models can be, and where in an answer it begins to bind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router_svc.policies.early_exit import DEFAULT_STYLE
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.vocabularies import Vocabularies
from router_svc.workers.runs import WorkerInfo
from rstitch.errors import invalid

_LAST_TOKENS = 64  # of a prompt: what begins or ends the thinking is within them


def check_pair(vocabularies: Vocabularies, workers: Iterable[WorkerInfo | None]) -> None:
    """Raises RstitchError, naming the field, for a pair that cannot be held to a schema."""
    if vocabularies.is_through_text:
        what = "the two models have no token ids in common."
        raise invalid("json_schema", what, "Leave it out, or use a pair of one family.")
    if not all(info is None or info.grammars for info in workers):
        what = "a worker is too old to hold answers to a schema."
        raise invalid("json_schema", what, "Leave it out, or run workers and router of one version.")


def thinking_marks(tokenizer: Tokenizer, prompt: Sequence[int], default_end: str) -> tuple[str, str]:
    """The texts that begin and end the thinking of an answer behind this prompt.

    The first is empty where the prompt has begun it, or it cannot begin; both are where the answer does not think. A
    model thinks if its folder or the router's settings say how that ends, or if its vocabulary has the usual end as a
    token. Raises RstitchError (INVALID_ARGUMENT) where it thinks and nothing tells how that begins.
    """
    end = default_end or tokenizer.exit_style.thinking_end
    if not end and len(tokenizer.encode(DEFAULT_STYLE.thinking_end, begins=False)) == 1:
        end = DEFAULT_STYLE.thinking_end
    if not end:
        return "", ""
    if not end.startswith("</"):
        what = f"the model thinks until {end!r}, and how its thinking begins is not known."
        raise invalid("json_schema", what, "Leave it out, or ask a model whose thinking is between <NAME> and </NAME>.")
    begin = f"<{end[2:]}"
    said = b"".join(tokenizer.bytes_of(token) for token in prompt[-_LAST_TOKENS:]).rstrip()
    if said.endswith(begin.encode()):
        return "", end
    return ("", "") if said.endswith(end.encode()) else (begin, end)
