"""One model over several cards: each rank, a process with a card of its own, has a part of every layer."""
