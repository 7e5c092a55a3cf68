"""Which session gets which rows and pages, step by step. Knows no torch."""
