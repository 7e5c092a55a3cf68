"""A whole stack on this machine: processes, their parts, and what kills them all."""
