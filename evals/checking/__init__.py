"""Is an answer right? One checker for each way to tell."""
