"""Who may come in, and how much of the pair a key may take."""
