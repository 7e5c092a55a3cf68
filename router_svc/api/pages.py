"""Pages of the listing: what one is asked for by, and the token for the page after it. It looks nothing up."""

from __future__ import annotations

import base64

from router_svc.api.validation import check_session_id
from router_svc.trajectory.listing import Cursor
from rstitch.errors import RstitchError, invalid
from rstitch.v1 import router_pb2

_MAX_PAGE = 1000


def parse_page(request: router_pb2.ListTrajectoriesRequest, default: int, tenant: str) -> tuple[int, Cursor | None]:
    """The size of the page that is asked for, and where the one before it ended. Raises RstitchError.

    A token that was given out for another list, of another tenant or with or without `labelled`, is none.
    """
    num = request.page_size
    if num > _MAX_PAGE:
        raise invalid("page_size", f"{num} is too many.", f"Ask for at most {_MAX_PAGE}.")
    of_list = _list_of(tenant, labelled=request.labelled)
    return num or default, _parse_token(request.page_token, of_list) if request.page_token else None


def encode_page_token(ended: Cursor | None, tenant: str, *, labelled: bool) -> str:
    """The text that `parse_page` reads; "" after the last page. Clients are to send it back, not to understand it.

    It shows nothing that whoever gets it does not see on the page.
    """
    if ended is None:
        return ""
    return base64.urlsafe_b64encode(f"{ended[0]}:{ended[1]}:{_list_of(tenant, labelled=labelled)}".encode()).decode()


def _parse_token(token: str, of_list: str) -> Cursor:
    try:
        score, session_id, found = base64.urlsafe_b64decode(token.encode()).decode().split(":", 2)
        if found == of_list:
            return int(score), check_session_id(session_id)
    except (ValueError, RstitchError):
        pass
    raise invalid("page_token", "it is none of ours.", "Send the next_page_token of the page before.")


def _list_of(tenant: str, *, labelled: bool) -> str:
    return f"{'labelled' if labelled else 'all'}:{tenant}"
