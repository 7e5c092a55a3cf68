"""What a client can put into `model`: a stock client has nothing else to choose a policy with.

rstitch                        the router's own policy
rstitch/llm, rstitch/slm       one model alone
rstitch:WORD                   any policy as one word: rstitch:threshold:tau=0.02, rstitch:profile:fast
another name                   as rstitch, if the operator gave it
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import ApiError
from rstitch.client import LlmOnly, SlmOnly
from rstitch.client.specs import Spec, parse
from rstitch.errors import RstitchError

OURS = "rstitch"
MODEL_NOT_FOUND = "model_not_found"  # OpenAI's own word
_ALONE = {f"{OURS}/llm": Spec(LlmOnly()), f"{OURS}/slm": Spec(SlmOnly())}
_WORD = f"{OURS}:"


def spec_of(model: str, served: Sequence[str]) -> Spec:
    """Gives the policy that a model's name stands for; `served` are the operator's names.

    Raises: ApiError (404, param `model`) for a name that is none.
    """
    if model == OURS or model in served:
        return Spec()
    if model in _ALONE:
        return _ALONE[model]
    if model.startswith(_WORD):
        try:
            return parse(model.removeprefix(_WORD))
        except RstitchError as error:
            raise _unknown(model, str(error)) from None
    raise _unknown(model, f"Choose one of {', '.join(names(served, ()))}, or {_WORD}POLICY.")


def names(served: Sequence[str], profiles: Sequence[str]) -> list[str]:
    """Lists the names that need no knowledge of policies."""
    return [OURS, *_ALONE, *(name for name in served if name != OURS), *(f"{_WORD}profile:{name}" for name in profiles)]


def _unknown(model: str, remedy: str) -> ApiError:
    what = f"The model {model[:200]!r} does not exist. {remedy}"
    return ApiError(404, what, "model", MODEL_NOT_FOUND, "not_found_error")
