"""docs/results.md, rebuilt from nothing: `make results`."""
