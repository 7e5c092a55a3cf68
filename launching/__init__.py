"""Puts a fleet onto the machines of a Ray cluster, restarts and scales it. No token passes through here."""
