"""Who may call, and how much: keys in Redis, the command that makes them, and their quotas. It knows no method."""
