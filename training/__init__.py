"""Everything that is learned: the tiny pair, the router policy of R-Stitch+, the latency model.

Nothing imports this package; it may import anything.
"""

import model_worker  # noqa: F401 - before transformers: it quiets what that imports
