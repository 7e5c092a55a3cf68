"""Answers from question to end: admission, who writes a session, what readers see."""
