"""A router whose callers all have one key: `python -m tests.support.limited_router` with the router's own flags.

LIMITS in the environment has the key's limits as JSON.
"""

from __future__ import annotations

import json
import os

from router_svc.main import main
from tests.support.callers import everybody_is, limited

if __name__ == "__main__":
    everybody_is(limited(**json.loads(os.environ["LIMITS"])))
    main()
