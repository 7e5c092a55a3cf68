"""One model for both roles: its first layers with a head of their own are the SLM."""
