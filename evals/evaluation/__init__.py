"""`rstitch eval`: how right, how fast and how routed the answers of each system are, problem by problem."""
