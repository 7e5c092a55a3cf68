"""What was written, and how Redis keeps it."""
