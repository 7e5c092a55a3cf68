"""Each suite: what it needs, how it is run before a gateway, and what of its words says that it passed."""
