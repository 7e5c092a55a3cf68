"""Is an answer right? Checkers, and the sandbox in which code runs."""
