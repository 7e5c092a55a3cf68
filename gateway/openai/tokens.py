"""Texts into token ids and back, as vLLM's `/tokenize` and `/detokenize` have it; the ids are the LLM's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field

from gateway.bodies import BoundedBody, Ids, Objects
from gateway.callers import client_of
from gateway.errors import bad, of_router, param_of
from gateway.names import spec_of
from gateway.openai.messages import chat_of
from rstitch.client import Model
from rstitch.errors import RstitchError

router = APIRouter(tags=["tokens"])
_SLM = "rstitch/slm"


class TokenizeRequest(BoundedBody):
    """The body of POST /tokenize: a prompt, or messages."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str = "rstitch"
    prompt: str | None = None
    messages: Annotated[Objects, Field(min_length=1)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(BoundedBody):
    """The body of POST /detokenize."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str = "rstitch"
    tokens: Ids


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeRequest) -> dict[str, Any]:
    """Tells the ids of a text as it is, or of a chat by the model's template."""
    if (body.prompt is None) == (body.messages is None):
        raise bad("prompt", "one of prompt and messages is needed.", "Send exactly one of them.")
    kwargs = body.chat_template_kwargs
    asked: dict[str, Any] = {"model": _model_of(request, body.model)}
    if body.messages is not None:
        asked |= {"chat": chat_of(body.messages)} | ({"chat_template_kwargs": kwargs} if kwargs else {})
    try:
        made = await client_of(request).tokenize(body.prompt, **asked)
    except RstitchError as error:
        given = "prompt" if body.messages is None else "messages"
        raise of_router(error, lambda field: param_of(field, given)) from None
    told = {"count": len(made.tokens), "max_model_len": made.context_length, "tokens": list(made.tokens)}
    if body.return_token_strs:
        told["token_strs"] = [text.decode("utf-8", "replace") for text in made.texts]
    return told


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeRequest) -> dict[str, Any]:
    """Tells the text of ids."""
    try:
        text = await client_of(request).detokenize(body.tokens, model=_model_of(request, body.model))
    except RstitchError as error:
        raise of_router(error, lambda field: param_of(field, "tokens")) from None
    return {"prompt": text}


def _model_of(request: Request, name: str) -> Model:
    spec_of(name, request.app.state.settings.served_model_name)
    return Model.SLM if name == _SLM else Model.LLM
