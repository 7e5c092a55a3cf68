"""The tiny pair: a word-problem task, a short-writing SLM and a verbose LLM, trained here from nothing.

`python -m training.tiny` makes `models/tiny-slm` and `models/tiny-llm` from seeds alone.
"""
