"""Which SLM suits an LLM: predicted from what each model says of the other's answers, and checked on the real stack."""
