"""The tiny domains: problems without end, in splits, and the check of an answer."""
