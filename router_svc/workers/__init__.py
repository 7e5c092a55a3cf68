"""Both workers from the router's side: clients, runs, and what each worker holds of a session."""
