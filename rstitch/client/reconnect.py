"""One answer across any number of streams: each token exactly once.

It tracks the position of the next token, decides what to ask for after a lost stream and how long to wait before, and
lets each event through once. The sync and the async client drive it; it opens no stream and sleeps nowhere.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator

import grpc

from rstitch.backoff import Backoff
from rstitch.client import messages, requests
from rstitch.client.common import UNREACHABLE
from rstitch.client.events import Chunk, Event, Finished, Started, Switch
from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2

_Code = grpc.StatusCode

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0

# A process that is killed shows as any of these, by where the call stood.
_LOST = {_Code.UNAVAILABLE, _Code.CANCELLED, _Code.INTERNAL, _Code.UNKNOWN}
# With these a router may say that what was kept can be gone on with.
_PASSING = {_Code.UNAVAILABLE, _Code.ABORTED, _Code.RESOURCE_EXHAUSTED, _Code.INTERNAL}


class Resumable:
    """Follows one answer, asked for or re-attached to by `request`, on the client's side.

    A question without a session id or a request id gets one made here. With both it is asked once, however often it is
    sent: it is sent again as it is where nobody knows whether a router had taken it. `reconnect_s` is how long to keep
    trying without a new token (0: not at all), `timeout_s` is for the whole answer, all streams together.
    """

    def __init__(self, request: router_pb2.GenerateRequest, *, reconnect_s: float, timeout_s: float | None) -> None:
        self._question = router_pb2.GenerateRequest()
        self._question.CopyFrom(request)
        self._question.takes_more = True
        self._attaching = request.HasField("resume_from")
        if not self._attaching:
            self._question.session_id = request.session_id or uuid.uuid4().hex
            self._question.request_id = request.request_id or uuid.uuid4().hex
        self._was_put_off = False
        self._may_be_taken = False  # the question, by a router that was lost before it said so
        self._deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._backoff = Backoff(first_s=_FIRST_WAIT_S, max_s=_LONGEST_WAIT_S, patience_s=reconnect_s)
        self._started = False
        self._next_position = request.resume_from
        # The switches given out since the last token: a new stream may begin with them again.
        self._switches_here: set[tuple[str, str]] = set()

    def request(self) -> router_pb2.GenerateRequest:
        """Gives the message to send now: the question, or the wish to go on where the last stream ended."""
        if self._attaching:
            asked = self._question
            # A question that was asked here may have been asked of a router that knows no id beside a position.
            id_ = asked.request_id if asked.HasField("resume_from") else ""
            request = requests.attach_request(asked.session_id, self._next_position, id_)
            request.takes_more, request.gather_ms = True, self._question.gather_ms
            return request
        return self._question

    def time_left_s(self) -> float | None:
        """Says how many seconds the next call may take; None means any."""
        return None if self._deadline == math.inf else max(0.0, self._deadline - time.monotonic())

    def accept(self, response: router_pb2.GenerateResponse) -> Iterator[Event]:
        """Gives the events to hand out, not those that were before. Raises: RstitchError (DATA_LOSS) on a gap."""
        for each in (response, *response.more):
            event = self._new(each)
            if event is not None:
                yield event

    def _new(self, response: router_pb2.GenerateResponse) -> Event | None:
        event = messages.event(response)
        match event:
            case Started():
                return self._start(event)
            case Chunk():
                self._check(event.position, len(event.tokens))
                self._next_position += len(event.tokens)
                self._switches_here.clear()
                self._backoff.reset()
            case Switch():
                edge = (event.from_model, event.to_model)
                if event.position < self._next_position or edge in self._switches_here:
                    return None
                self._switches_here.add(edge)
            case Finished():
                pass
        return event

    def wait_after(self, error: RstitchError) -> float:
        """Says how many seconds to wait before the next try. Raises: `error`, with what was kept, if there is none."""
        delay_s = self._backoff.next_s(error.retry_after_s or 0.0)
        left_s = self._deadline - time.monotonic()
        if delay_s is None or left_s <= 0 or not self._may_retry(error):
            raise self._with_what_was_kept(error)
        self._was_put_off = True
        self._may_be_taken = self._may_be_taken or error.reason == "TRANSPORT"
        return min(left_s, delay_s)

    def _may_retry(self, error: RstitchError) -> bool:
        if error.reason == UNREACHABLE:
            # Nobody there when asked for the first time: the caller should know now, not after a long wait.
            return self._attaching or self._was_put_off
        if error.reason == "TRANSPORT":
            return error.code in _LOST
        says_when = error.retry_after_s is not None
        if not (self._attaching or self._may_be_taken):  # it is refused, and a delay says if it only cannot be yet
            return error.code is _Code.UNAVAILABLE and says_when
        if error.code is _Code.UNAVAILABLE:
            return True
        return error.code in _PASSING and (says_when or "resume_from" in error.metadata)

    def _start(self, event: Started) -> Event | None:
        if self._started:
            self._check(event.position, 0)
            return None
        self._started = True
        self._attaching = True
        self._question.session_id = event.session_id
        self._next_position = event.position
        return event

    def _check(self, position: int, num_tokens: int) -> None:
        if position != self._next_position:
            raise RstitchError(
                _Code.DATA_LOSS,
                "OUT_OF_ORDER",
                f"the stream brought {num_tokens} tokens at position {position}, {self._next_position} was next.",
                remedy="This is a bug of the router; GetTrajectory has the whole answer.",
                metadata=self._kept(),
            )

    def _kept(self) -> dict[str, str]:
        return {"session_id": self._question.session_id, "resume_from": str(self._next_position)}

    def _with_what_was_kept(self, error: RstitchError) -> RstitchError:
        if self._started:
            error.metadata.update(self._kept())
            where = f"{self._question.session_id!r}, resume_from={self._next_position}"
            error.remedy = error.remedy or f"attach({where}) goes on."
        return error


def ended_early() -> RstitchError:
    """Makes the error of a stream that ended well, but without its last event."""
    return RstitchError(_Code.UNAVAILABLE, "TRANSPORT", "the stream ended before the answer did.")
