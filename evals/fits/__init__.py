"""What fits where: weights, KV caches and sessions of a pair on given cards, computed from configs alone."""
