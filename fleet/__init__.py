"""Who is there: workers that announce themselves, the registry that keeps it, and where a session is placed."""
