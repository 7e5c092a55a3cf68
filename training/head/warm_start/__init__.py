"""Where a head begins: what the SLM would have thought along known answers, and a first fit to that."""
