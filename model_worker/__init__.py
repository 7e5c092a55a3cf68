"""What a worker is: one language model behind the gRPC contract. `slm_worker` and `llm_worker` both run it."""
