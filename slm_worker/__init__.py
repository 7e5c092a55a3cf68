"""The SLM's worker: a role and its defaults. Everything it does is in `model_worker`."""
