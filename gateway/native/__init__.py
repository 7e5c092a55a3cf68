"""The router's own contract as JSON over HTTP: every event, trajectory and state, by the contract's names."""
