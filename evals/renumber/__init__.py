"""The same model under other ids: what a mapped pair is measured with."""
