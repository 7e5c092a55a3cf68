"""The figures of answers, their tables and plots, statistics, and where a figure came from."""
