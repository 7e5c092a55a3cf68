-- Says what a key takes at the moment, and changes nothing.
-- Follows window.lua.
-- KEYS, all of one slot: requests by when they were admitted, slots by when their lease ends, tokens by bucket.
-- ARGV: 1 now ms or "", 2 window ms.
-- Returns the numbers of requests, tokens, tokens of the LLM, answers at once.
local now, window = time_ms(ARGV[1]), tonumber(ARGV[2])
local _, num_tokens = counted(KEYS[3], "t", now, window)
local _, num_llm_tokens = counted(KEYS[3], "l", now, window)
return {
  redis.call("ZCOUNT", KEYS[1], "(" .. (now - window), "+inf"),
  num_tokens,
  num_llm_tokens,
  redis.call("ZCOUNT", KEYS[2], "(" .. now, "+inf"),
}
