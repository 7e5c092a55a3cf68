-- What both scripts share; put before them.

-- Each entry is six arguments: source, position, tokens, entropies, switch reason, switch entropy.
local function add_entries(stream, first)
  for i = first, #ARGV, 6 do
    redis.call("XADD", stream, "*", "s", ARGV[i], "p", ARGV[i + 1], "t", ARGV[i + 2], "e", ARGV[i + 3],
      "r", ARGV[i + 4], "h", ARGV[i + 5])
  end
end

-- Value and expiry are written together; what has expired leaves the index.
local function touch(session_id, now_ms, ttl_ms)
  redis.call("PEXPIRE", KEYS[1], ttl_ms)
  redis.call("PEXPIRE", KEYS[2], ttl_ms)
  redis.call("ZADD", KEYS[3], now_ms, session_id)
  redis.call("ZREMRANGEBYSCORE", KEYS[3], "-inf", now_ms - ttl_ms)
end
