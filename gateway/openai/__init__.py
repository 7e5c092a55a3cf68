"""OpenAI's API: what its clients send, as a question to the router, and the answer as they read it."""
