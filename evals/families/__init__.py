"""Which decoder families of the installed transformers are served token for token, and why the others are refused."""
