"""Lists that come by pages: the request for one, and what it says. It opens no connection."""

from __future__ import annotations

from rstitch.client import messages
from rstitch.client.status import TrajectoryPage
from rstitch.errors import invalid
from rstitch.v1 import router_pb2


def page_request(page_size: int, page_token: str, labelled: bool) -> router_pb2.ListTrajectoriesRequest:
    """Writes which page is wanted. Raises: InvalidArgument naming the argument."""
    request = router_pb2.ListTrajectoriesRequest(labelled=labelled)
    for field, value in (("page_size", page_size), ("page_token", page_token)):
        try:
            setattr(request, field, value)
        except (TypeError, ValueError) as error:
            remedy = "Give a number from 0 to 1000, and the next_page_token of the page before."
            raise invalid(field, f"cannot be sent: {error}.", remedy) from error
    return request


def trajectory_page(m: router_pb2.ListTrajectoriesResponse) -> TrajectoryPage:
    """Reads a page of trajectories."""
    return TrajectoryPage(tuple(messages.trajectory(each) for each in m.trajectories), m.next_page_token)
