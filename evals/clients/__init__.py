"""Clients and suites of others before our gateway, unchanged, each in an environment of its own below .cache."""
