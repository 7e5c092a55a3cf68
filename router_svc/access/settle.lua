-- Charges a key for what its answers in one router have written, renews their slots and frees those of others.
-- Follows window.lua.
-- KEYS, all of one slot: requests by when they were admitted, slots by when their lease ends, tokens by bucket, number of
--       changes of slots, number of this router's last charge.
-- ARGV: 1 now ms or "", 2 window ms, 3 lease ms, 4 number of this charge, 5 tokens, 6 those of the LLM, 7 for how long
--       its number is known in ms, 8 number of requests that are taken back, 9 number of slots that are freed, then
--       these, then the slots that are renewed.
local requests, slots, tokens, changes, charged = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local now, window, lease, number = time_ms(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local num_tokens, num_llm_tokens = tonumber(ARGV[5]), tonumber(ARGV[6])
local first_slot = 10 + ARGV[8]
local first_renewed = first_slot + ARGV[9]

for i = 10, first_slot - 1 do
  redis.call("ZREM", requests, ARGV[i])
end
for i = first_slot, first_renewed - 1 do
  redis.call("ZREM", slots, ARGV[i])
end
if first_slot < first_renewed and redis.call("EXISTS", changes) == 1 then
  redis.call("INCRBY", changes, first_renewed - first_slot)
  redis.call("PEXPIRE", changes, lease + window)
end
for i = first_renewed, #ARGV do
  redis.call("ZADD", slots, now + lease, ARGV[i])
end
if first_renewed <= #ARGV then
  redis.call("PEXPIRE", slots, lease + window)
end

-- The reply to a charge may be lost, then it comes again under its number.
if num_tokens + num_llm_tokens > 0 and tonumber(redis.call("GET", charged) or 0) < number then
  redis.call("SET", charged, number, "PX", ARGV[7])
  for _, field in ipairs(redis.call("HKEYS", tokens)) do
    if counts_until(tonumber(string.sub(field, 2)), window) <= now then
      redis.call("HDEL", tokens, field)
    end
  end
  local bucket = math.floor(now / bucket_ms(window))
  redis.call("HINCRBY", tokens, "t" .. bucket, num_tokens)
  redis.call("HINCRBY", tokens, "l" .. bucket, num_llm_tokens)
  redis.call("PEXPIRE", tokens, 2 * window)
end
return "OK"
