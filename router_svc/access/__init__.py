"""Who may call: keys in Redis, which all routers share, and the command that makes them. It knows no method."""
