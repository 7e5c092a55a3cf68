"""Where the page is served: its document at each of its own addresses, its files, and what it must know to begin.

The browser is told to load nothing from elsewhere and to run nothing that is no file of ours.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

import rstitch
from gateway.page.files import Files
from gateway.settings import GatewaySettings
from rstitch.cli.examples import EXAMPLES

router = APIRouter(tags=["page"], include_in_schema=False)
_FILES = Files("/page")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
}
_FOREVER = {"cache-control": "public, max-age=31536000, immutable"}
_ASK_AGAIN = {"cache-control": "no-cache", "etag": f'"{_FILES.version}"'}


@router.get("/")
@router.get("/t")
@router.get("/t/{session_id}")
async def page(request: Request) -> Response:
    """Gives the document; which view it shows, it reads from its own address."""
    if request.headers.get("if-none-match") == _ASK_AGAIN["etag"]:
        return Response(status_code=304, headers=_HEADERS | _ASK_AGAIN)
    return Response(_FILES.index, media_type="text/html; charset=utf-8", headers=_HEADERS | _ASK_AGAIN)


@router.get("/page/{version}/{name:path}")
async def file(version: str, name: str) -> Response:
    """Gives a file of the page."""
    found = _FILES.get(version, name)
    if found is None:
        raise HTTPException(404)
    return Response(found.content, media_type=found.kind, headers=_HEADERS | _FOREVER)


@router.get("/v1/rstitch/ui-settings")
async def ui_settings(request: Request) -> dict[str, Any]:
    """Tells what the page must know: where traces are shown, the marks of the thinking, and questions to try."""
    settings: GatewaySettings = request.app.state.settings
    marks = settings.marks()
    return {
        "version": rstitch.__version__,
        "jaeger_url": settings.jaeger_url.rstrip("/"),
        "think_begin": marks.begin,
        "think_end": marks.end,
        "examples": [example.question for example in EXAMPLES[:3]],
    }
