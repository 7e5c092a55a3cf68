"""Algorithm 1 in one process: the oracle of the served system, and the floor that it is measured against."""
