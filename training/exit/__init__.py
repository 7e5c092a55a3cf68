"""The tiny model with an exit: the LLM of the tiny pair, trained on so that its first layers alone write as the SLM.

`python -m training.exit` makes `models/tiny-exit` from `models/tiny-llm`.
"""
