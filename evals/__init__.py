"""Measuring: the reference decoder, tasks, benchmarks. May import everything; nothing imports it."""

import model_worker  # noqa: F401 - before transformers: it quiets what that imports
