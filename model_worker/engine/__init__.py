"""The stepping engine: sessions, paged KV, scheduler, runner, sampling. No grpc, no asyncio, no tokenizer."""
