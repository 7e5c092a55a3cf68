"""Writes the choices of a completion at once and tells them, whole or as they come; whoever leaves ends them all.

It does not know what a request looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import structlog
from pydantic_core import to_json

from gateway.errors import ApiError, of_router
from gateway.openai.choice import Choice
from gateway.openai.completions import Shape
from gateway.openai.resuming import Place, Tokens
from gateway.sse import DONE, frame
from rstitch.client import Event, Finished
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
Answers = Sequence[tuple[Choice, AsyncIterator[Event]]]


async def begun(answers: Answers) -> Answers:
    """Waits until the router has taken all of them: what it refuses is refused before anything is sent.

    Raises: RstitchError; then none of them goes on.
    """
    opened: list[tuple[Choice, AsyncIterator[Event]]] = []
    try:
        for choice, events in answers:
            choice.take(await anext(events))
            opened.append((choice, events))
    except BaseException:
        await _left(answers)
        raise
    return opened


async def whole(answers: Answers, shape: Shape) -> dict[str, Any]:
    """Waits for all of them. Raises: ApiError for one that failed; then none of them goes on."""
    if len(answers) == 1:
        try:
            await _read(*answers[0])
        except RstitchError as error:
            raise of_router(error) from None
        finally:
            await _left(answers)
        return shape.whole([answers[0][0]])
    tasks = [asyncio.ensure_future(_read(*answer)) for answer in answers]
    try:
        await asyncio.gather(*tasks)
    except RstitchError as error:
        raise of_router(error) from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _left(answers)
    return shape.whole([choice for choice, _ in answers])


async def streamed(
    answers: Answers, shape: Shape, *, with_usage: bool, always_usage: bool = False, place: Place | None = None
) -> AsyncGenerator[bytes]:
    """Frames of all of them as they come, the end of the stream included; with a `place` from there on, and with ids.

    An answer that fails ends the stream with an error object, which clients raise.
    """
    choices = [choice for choice, _ in answers]
    try:
        for choice in choices:
            opening = shape.opening(choice)
            if place is None or place.opens(choice.index):
                for each in opening:
                    yield _framed(each, place)
        if len(answers) == 1:  # nothing to merge: each event passes one generator less
            ((choice, events),) = answers
            async for event in events:
                for made in _told(choice, event, shape, always_usage, place):
                    yield made
        else:
            async with contextlib.aclosing(_merged(answers)) as merged:
                async for choice, event in merged:
                    for made in _told(choice, event, shape, always_usage, place):
                        yield made
        if with_usage and (place is None or place.sums_up()):
            yield _framed(shape.usage(choices), place)
    except RstitchError as error:
        yield _framed(of_router(error).body())
    except Exception:  # noqa: BLE001 - the status is sent; clients raise what they read
        _log.exception("a stream failed")
        yield _framed(ApiError(500, "The gateway failed.", code="INTERNAL").body())
    finally:
        await _left(answers)
    yield DONE


def _told(choice: Choice, event: Event, shape: Shape, always_usage: bool, place: Place | None) -> list[bytes]:
    """The frames that an event becomes; a switch becomes none."""
    seen = len(choice.tokens)
    piece = choice.take(event)
    tokens: Tokens = choice.tokens[seen:]
    if place is not None:
        passed, (piece, tokens) = place.parted(choice.index, piece, tokens)
        if passed[1]:
            shape.chunk(choice, *passed)  # it counts where tokens begin
    frames = []
    if piece.thinking or piece.content or tokens:
        made = shape.chunk(choice, piece, tokens)
        choice.tokens.clear()
        if always_usage:
            made["usage"] = shape.usage([choice])["usage"]
        frames.append(_framed(made, place))
    if isinstance(event, Finished) and (place is None or place.ends(choice.index)):
        frames.append(_framed(shape.ending(choice), place))
    return frames


async def _read(choice: Choice, events: AsyncIterator[Event]) -> None:
    async for event in events:
        choice.take(event)


async def _merged(answers: Answers) -> AsyncGenerator[tuple[Choice, Event]]:
    """The events of all as they come. Raises what the first of them does that fails."""
    coming = {asyncio.ensure_future(anext(events)): (choice, events) for choice, events in answers}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                choice, events = coming.pop(task)
                with contextlib.suppress(StopAsyncIteration):
                    yield choice, task.result()
                    coming[asyncio.ensure_future(anext(events))] = choice, events
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)


async def _left(answers: Answers) -> None:
    """Ends the calls; what is still being written ends with them, as each question said."""
    for _, events in answers:
        await events.aclose()  # type: ignore[attr-defined]


def _framed(json: dict[str, Any], place: Place | None = None) -> bytes:
    return frame(to_json(json), place.id if place is not None else "")
