"""The router's own contract as JSON over HTTP: what `rstitch ask --json` and `rstitch trajectory --json` print.

It knows neither OpenAI's words nor what a page shows of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic_core import to_json

from gateway import sse
from gateway.callers import client_of
from gateway.described import STREAMED
from gateway.errors import ApiError, of_router
from gateway.native.requests import GenerateBody, LabelBody
from gateway.settings import GatewaySettings
from rstitch.client import Event
from rstitch.client.plain import as_dict, event_dict, profile_dict, trajectory_dict
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
_JSON = "application/json"


class _ByContract(APIRoute):
    """A route whose refusals name fields as the contract does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handler(request)
            except RstitchError as error:
                raise of_router(error, str) from None

        return told


router = APIRouter(prefix="/v1/rstitch", tags=["rstitch"], route_class=_ByContract)


@router.post("/generate", responses=STREAMED)
async def generate(request: Request, body: GenerateBody) -> Response:
    """Writes an answer, or reads one that exists, as a stream of events: started, chunk, switch, finished."""
    body.check()
    client = client_of(request)
    if body.attach is not None:
        events = client.attach(body.attach.session_id, body.attach.resume_from)
    else:
        events = client.generate(body.text, **body.question())
    first = await anext(events)
    settings: GatewaySettings = request.app.state.settings
    headers = {"x-session-id": getattr(first, "session_id", "")}
    return sse.EventStream(_framed(first, events), settings.keepalive_s, headers)


@router.get("/trajectories")
async def trajectories(
    request: Request,
    page_size: Annotated[int, Query(ge=0, le=1000)] = 0,
    page_token: Annotated[str, Query(max_length=1024)] = "",
    labelled: bool = False,
) -> Response:
    """Lists what is kept, newest first and without segments, by pages."""
    page = await client_of(request).trajectory_page(page_size, page_token, labelled=labelled)
    found = [trajectory_dict(each) for each in page.trajectories]
    return _json({"trajectories": found, "next_page_token": page.next_page_token})


@router.get("/trajectories/{session_id}")
async def trajectory(request: Request, session_id: str, details: bool = False) -> Response:
    """Gives a trajectory, whole, with the details of the last answer's tokens if that is wanted and they were kept."""
    return _json(trajectory_dict(await client_of(request).trajectory(session_id, details=details)))


@router.delete("/trajectories/{session_id}", status_code=204)
async def delete_trajectory(request: Request, session_id: str) -> Response:
    """Forgets a trajectory; stops it first if it is still being written."""
    await client_of(request).delete_trajectory(session_id)
    return Response(status_code=204)


@router.post("/trajectories/{session_id}/cancel")
async def cancel(request: Request, session_id: str) -> Response:
    """Ends the answer that is being written in a session, and keeps what is written."""
    _refuse_other_pages(request)
    return _json(as_dict(await client_of(request).cancel(session_id)))


@router.post("/trajectories/{session_id}/label", status_code=204)
async def label_trajectory(request: Request, session_id: str, body: LabelBody) -> Response:
    """Says whether a session's last answer, which must be finished, was right."""
    await client_of(request).label_trajectory(session_id, body.right)
    return Response(status_code=204)


@router.get("/status")
async def status(request: Request) -> Response:
    """Tells the state of the router and of what is behind it."""
    return _json(as_dict(await client_of(request).status()))


@router.get("/profiles")
async def profiles(request: Request) -> Response:
    """Lists the profiles that are kept."""
    return _json({"profiles": [profile_dict(each) for each in await client_of(request).profiles()]})


def _json(value: dict[str, Any]) -> Response:
    return Response(to_json(value), media_type=_JSON)


async def _framed(first: Event, events: AsyncIterator[Event]) -> AsyncGenerator[bytes]:
    """Frames of an answer; one that fails ends with an error object. Whoever leaves ends the call."""
    try:
        yield sse.frame(to_json(event_dict(first)))
        async for event in events:
            yield sse.frame(to_json(event_dict(event)))
    except RstitchError as error:
        yield sse.frame(to_json(of_router(error, str).body()))
    except Exception:  # noqa: BLE001 - the status is sent; clients find it in the stream
        _log.exception("a stream failed")
        yield sse.frame(to_json(ApiError(500, "The gateway failed; its log says why.", code="INTERNAL").body()))
    finally:
        await events.aclose()  # type: ignore[attr-defined]


def _refuse_other_pages(request: Request) -> None:
    """A browser asks nobody before it sends a POST without a body to another's host, and says only whose page it is."""
    origin = request.headers.get("origin")
    if origin is None or request.headers.get("content-type", "").startswith(_JSON):
        return
    # As browsers write it: nothing but scheme, host and port.
    if origin.partition("://")[2] != request.headers.get("host"):
        what = "Another host's page may not ask for this. Send it as `Content-Type: application/json`, with {}."
        raise ApiError(403, what, code="CROSS_ORIGIN")
