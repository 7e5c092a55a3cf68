"""Everything that is learned: the tiny pair, the router policy of R-Stitch+, the latency model.

Nothing imports this package; it may import anything.
"""
