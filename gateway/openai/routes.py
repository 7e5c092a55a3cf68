"""The routes of OpenAI's API that write answers, and those that tell which models there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gateway.callers import client_of
from gateway.described import STREAMED
from gateway.errors import ApiError, bad, of_router
from gateway.leaving import Left, WhileHere
from gateway.names import names, spec_of
from gateway.openai.answers import begun, streamed, whole
from gateway.openai.choice import Asked, Choice
from gateway.openai.completions import ChatShape, Shape, TextShape
from gateway.openai.question import IDEMPOTENCY_HEADER, chat_questions, completion_questions, idempotent_id
from gateway.openai.requests import ChatRequest, CompletionRequest
from gateway.openai.requests import Request as Body
from gateway.openai.resuming import LAST_ID_HEADER, MOST_CHOICES, Place
from gateway.openai.said import explained
from gateway.settings import GatewaySettings
from gateway.sse import EventStream
from rstitch.client import Details, Event
from rstitch.client.question import Question
from rstitch.errors import RstitchError

router = APIRouter(tags=["OpenAI"])
_CREATED = 0  # of a model: nobody knows
# Of an answer that is told as a whole, what has come is of use to nobody: this only shows that it goes on.
_GATHER_MS = 5_000


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Lists the names that can be asked for."""
    return {"object": "list", "data": [_model(name) for name in await _names(request)]}


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """Says whether a name can be asked for."""
    if model not in await _names(request):
        spec_of(model, _settings(request).served_model_name)
    return _model(model)


@router.post("/v1/chat/completions", responses=STREAMED)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Answers a chat, whole or as a stream of events."""
    settings = _settings(request)
    questions = chat_questions(body, request.headers, settings.served_model_name)
    excluded = body.include_reasoning is False or (body.reasoning or {}).get("exclude") is True
    asked = Asked(
        marks=settings.marks() if body.separate_reasoning is not False else None,
        include_thinking=not excluded,
        tokens=bool(body.logprobs),
        num_alternatives=body.top_logprobs or 0,
    )
    details = Details(asked.num_alternatives) if asked.tokens else None
    return await _answered(
        request, body, asked, details, [(None, each) for each in questions], ChatShape(body.model, bool(body.logprobs))
    )


@router.post("/v1/completions", responses=STREAMED)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Goes on with a text, or several, whole or as a stream of events."""
    questions = completion_questions(body, request.headers, _settings(request).served_model_name)
    if body.echo and any(text is None for text, _ in questions):
        raise ApiError(400, "echo: token ids are not echoed. Leave it out.", "echo", "unsupported_value")
    if body.echo and body.logprobs is not None:
        raise bad("logprobs", "those of a prompt are not known.", "Leave out echo or logprobs.", "unsupported_value")
    asked = Asked(tokens=body.logprobs is not None, num_alternatives=body.logprobs or 0)
    echoed = [text or "" for text, _ in questions] if body.echo else ()
    shape = TextShape(body.model, len(questions) // (body.n or 1), body.logprobs is not None, echoed)
    details = Details(asked.num_alternatives) if asked.tokens else None
    return await _answered(request, body, asked, details, questions, shape)


async def _answered(
    request: Request,
    body: Body,
    asked: Asked,
    details: Details | None,
    questions: list[tuple[str | None, Question]],
    shape: Shape,
) -> Response:
    client = client_of(request)
    key = request.headers.get(IDEMPOTENCY_HEADER, "")
    known = idempotent_id(key, request, await request.body()) if key else ""
    place = _place(request, len(questions), is_known=bool(known)) if body.stream else None
    answers: list[tuple[Choice, AsyncIterator[Event]]] = []
    for index, (text, question) in enumerate(questions):
        if details is not None:
            question["details"] = details
        if not body.stream:
            question["gather_ms"] = _GATHER_MS
        own = f"{known}-{index}" if index else known
        named = question.get("session_id", "")
        if place is not None and place.resumes:  # it is there, or lost: what was told of it goes on with no other
            events = client.attach(named or own, request_id=own)
        else:
            if known:
                question |= {"request_id": own, "session_id": named or own, "only_if_new": not named}
            events = client.generate(text, **question)
        answers.append((Choice(asked, index), events))
    try:
        async with _awaited(request):
            opened = await begun(answers)
    except RstitchError as error:
        given = "messages" if isinstance(body, ChatRequest) else "prompt"
        raise explained(error, body, request.headers, given) from None
    headers = {"x-session-id": opened[0][0].session_id} | _ignored(body)
    if not body.stream:
        async with _awaited(request):
            return JSONResponse(await whole(opened, shape), headers=headers)
    options = body.stream_options
    frames = streamed(
        opened,
        shape,
        with_usage=bool(options and options.include_usage),
        always_usage=bool(options and options.continuous_usage_stats),
        place=place,
    )
    return EventStream(frames, _settings(request).keepalive_s, headers)


def _place(request: Request, num_choices: int, *, is_known: bool) -> Place | None:
    """Where a stream begins; None: nobody can ask for it again. Raises: ApiError."""
    last_id = request.headers.get(LAST_ID_HEADER, "")
    if is_known and num_choices <= MOST_CHOICES:
        return Place(num_choices, last_id)
    if last_id and is_known:
        raise bad("Last-Event-ID", f"a stream of more than {MOST_CHOICES} choices has no ids.", "Leave it out.")
    if last_id:
        remedy = "Send the Idempotency-Key of the first request, too, or leave it out."
        raise bad("Last-Event-ID", "only an answer with a key can be gone on with.", remedy)
    return None


@asynccontextmanager
async def _awaited(request: Request) -> AsyncIterator[None]:
    """Around work that ends once nobody waits for it any more. Raises: ApiError (499) then."""
    try:
        async with WhileHere(request.receive):
            yield
    except Left:
        raise ApiError(499, "The client has left.", code="CLIENT_LEFT") from None


async def _names(request: Request) -> list[str]:
    """The names of models; a key that may not see profiles sees the others."""
    try:
        profiles = [profile.name for profile in await client_of(request).profiles()]
    except RstitchError as error:
        if (failed := of_router(error)).status != 403:
            raise failed from None
        profiles = []
    return names(_settings(request).served_model_name, profiles)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "rstitch"}


def _ignored(body: Body) -> dict[str, str]:
    """Tells which fields nobody knows; only names that fit into a header."""
    names = [name for name in body.unknown() if name.isascii() and name.isprintable() and len(name) <= 64]
    return {"x-rstitch-ignored": ", ".join(names[:16])} if names else {}


def _settings(request: Request) -> GatewaySettings:
    settings: GatewaySettings = request.app.state.settings
    return settings
