"""Statistics, and where a figure came from."""
