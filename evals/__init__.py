"""Measuring: the reference decoder, tasks, benchmarks. May import everything; nothing imports it."""
