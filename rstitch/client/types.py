"""Every value that a client sends or gets; `rstitch.client` exports the same names beside the clients."""

from rstitch.client.events import *  # noqa: F403
from rstitch.client.policies import *  # noqa: F403
from rstitch.client.question import *  # noqa: F403
from rstitch.client.status import *  # noqa: F403
