"""Asks a running router for what the SLM thought along answers: what `observed_states` makes states of."""

from __future__ import annotations

from collections.abc import Sequence

from evals.asking.load import closed_loop
from rstitch.client.aio import AsyncClient
from rstitch.client.types import ChatInput, Label
from training.head.warm_start.observed_states import Seen, given, logged

_EVERYWHERE = -1.0


async def observe_given(client: AsyncClient, answers: Sequence[tuple[ChatInput, str]], concurrency: int) -> list[Seen]:
    """Observes given answers, such as worked solutions: each a question and the text in reply to it.

    Raises: RstitchError if the router refuses one, or is lost.
    """

    async def one(answer: tuple[ChatInput, str]) -> Seen:
        chat, text = answer
        # Everywhere: what a head is shown of the answer so far needs the entropies of all of it.
        return given([each async for each in client.observe_answer(tau=_EVERYWHERE, chat=chat, text=text)])

    return await closed_loop(one, answers, concurrency)


async def observe_logged(
    client: AsyncClient, sessions: Sequence[tuple[str, bool | None]], tau: float, concurrency: int
) -> list[Seen]:
    """Observes the last answers of sessions, by their ids, each with whether it was right (None: nobody knows).

    Args:
        tau: only where the SLM's entropy is above.

    Raises: RstitchError if one is unknown or not finished, or the router is lost.
    """

    async def one(session: tuple[str, bool | None]) -> Seen:
        session_id, right = session
        places = [each async for each in client.observe_answer(tau=tau, session_id=session_id)]
        return logged(await client.trajectory(session_id), places, right)

    return await closed_loop(one, sessions, concurrency)


async def labelled(client: AsyncClient) -> list[tuple[str, bool | None]]:
    """Lists the sessions whose last answer has a label (`rstitch trajectory label`), with whether it was right."""
    return [(each.session_id, each.label is Label.RIGHT) async for each in client.trajectories(labelled=True)]
