"""The tiny model with shared layers: the tiny LLM, trained on so that its first layers alone write as the SLM.

`python -m training.shared_layers` makes `models/tiny-shared-layers` from `models/tiny-llm`.
"""
