"""Completions that were stored, as OpenAI has them: every trajectory of the caller's own, whoever asked for it and how.

They are told by what is kept: the last answer of a session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from gateway.callers import client_of
from gateway.errors import bad, of_router
from gateway.openai.choice import Asked, Choice
from gateway.openai.completions import ChatShape
from rstitch.client import Chunk, Finished, Model, Source, Started, Trajectory
from rstitch.client.aio import AsyncClient
from rstitch.client.specs import Spec, text_of
from rstitch.errors import NotFound, RstitchError

router = APIRouter(tags=["OpenAI"])
_WRITERS = {Source.SLM: Model.SLM, Source.LLM: Model.LLM}
# A list that goes on behind an id is read from its beginning: nobody keeps where that was.
_MOST_READ = 10_000


@router.get("/v1/chat/completions")
async def list_completions(
    request: Request, after: str = "", limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    """Lists stored answers, newest first; `after` is the last id of the page before."""
    client = client_of(request)
    try:
        ids = [id_ async for id_ in _ids(client, after, limit + 1)]
        found = [made for id_ in ids[:limit] if (made := await _completion(request, client, id_)) is not None]
    except RstitchError as error:
        raise of_router(error) from None
    shown = [made["id"] for made in found]
    return {
        "object": "list",
        "data": found,
        "first_id": shown[0] if shown else "",  # a text in OpenAI's description, also of an empty page
        "last_id": shown[-1] if shown else "",
        "has_more": len(ids) > limit,
    }


@router.get("/v1/chat/completions/{completion_id}")
async def retrieve_completion(request: Request, completion_id: str) -> dict[str, Any]:
    """Tells a stored answer; one that is being written or was broken off, as far as it is."""
    try:
        return _told(request, await client_of(request).trajectory(completion_id))
    except RstitchError as error:
        raise of_router(error) from None


@router.delete("/v1/chat/completions/{completion_id}")
async def delete_completion(request: Request, completion_id: str) -> dict[str, Any]:
    """Forgets a stored answer, and the session that it is in."""
    client = client_of(request)
    try:
        await client.trajectory(completion_id)  # what nobody has is not forgotten in silence
        await client.delete_trajectory(completion_id)
    except RstitchError as error:
        raise of_router(error) from None
    return {"object": "chat.completion.deleted", "id": completion_id, "deleted": True}


async def _ids(client: AsyncClient, after: str, limit: int) -> AsyncIterator[str]:
    seen, found = 0, not after
    async for trajectory in client.trajectories(1000 if after else limit):
        if found:
            yield trajectory.session_id
            limit -= 1
            if not limit:
                return
        found = found or trajectory.session_id == after
        seen += 1
        if not found and seen >= _MOST_READ:
            break
    if not found:
        raise bad("after", f"it is none of the newest {_MOST_READ}.", "Give the last id of a page.")


async def _completion(request: Request, client: AsyncClient, id_: str) -> dict[str, Any] | None:
    try:
        return _told(request, await client.trajectory(id_))
    except NotFound:  # forgotten meanwhile
        return None


def _told(request: Request, trajectory: Trajectory) -> dict[str, Any]:
    segments = trajectory.segments
    last = max((n for n, segment in enumerate(segments) if segment.source is Source.PROMPT), default=-1)
    choice = Choice(Asked(marks=request.app.state.settings.marks()))
    start = segments[last + 1].position if last + 1 < len(segments) else trajectory.length
    prompt = segments[last].text if last >= 0 else ""
    choice.take(Started(trajectory.session_id, start, start, "", prompt))
    for segment in segments[last + 1 :]:
        model = _WRITERS[segment.source]
        choice.take(Chunk(model, segment.position, segment.tokens, segment.entropies, segment.text))
    created = int(trajectory.created.timestamp())
    if isinstance(trajectory.finished, Finished):
        choice.take(trajectory.finished)
        told = ChatShape("rstitch", created=created).whole([choice])
    else:
        choice.flush()
        told = ChatShape("rstitch", created=created).partial(choice)
    policy = text_of(Spec(trajectory.policy)) if trajectory.policy is not None else None
    return told | {"rstitch": {"state": str(trajectory.state), "policy": policy}}
