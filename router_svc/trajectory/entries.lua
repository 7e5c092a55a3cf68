-- What claim.lua, append.lua and cancel.lua share; put before each of them.
-- Redis runs a script as one step, but does not undo what it wrote before an error: each checks all before it writes.

-- Each entry is ten arguments: source, position, tokens, entropies, switch reason, switch entropy, uncertainties (the
-- policy's signal; "" where that is the entropy), notes of a prompt, consultations of a head, details of the tokens (these
-- three "": none, and no field).
local function add_entries(stream, first, last)
  for i = first, last, 10 do
    local entry = {"s", ARGV[i], "p", ARGV[i + 1], "t", ARGV[i + 2], "e", ARGV[i + 3], "r", ARGV[i + 4],
      "h", ARGV[i + 5], "u", ARGV[i + 6]}
    if ARGV[i + 7] ~= "" then
      table.insert(entry, "n")
      table.insert(entry, ARGV[i + 7])
    end
    if ARGV[i + 8] ~= "" then
      table.insert(entry, "c")
      table.insert(entry, ARGV[i + 8])
    end
    if ARGV[i + 9] ~= "" then
      table.insert(entry, "d")
      table.insert(entry, ARGV[i + 9])
    end
    redis.call("XADD", stream, "*", unpack(entry))
  end
end

-- Value and expiry are written together: a trajectory cannot be left without an end by a router that dies in between.
local function touch(trajectory, chunks, index, session_id, now_ms, ttl_ms)
  redis.call("PEXPIRE", trajectory, ttl_ms)
  redis.call("PEXPIRE", chunks, ttl_ms)
  redis.call("ZADD", index, now_ms, session_id)
  -- The index of sessions of whom nobody is left goes, too. It is not renewed each time, as it lasts twice as long.
  if redis.call("PTTL", index) < tonumber(ttl_ms) then
    redis.call("PEXPIRE", index, 2 * ttl_ms)
  end
end

-- What has expired leaves the index. Once a claim is often enough: until then readers skip names without a hash.
local function tidy(index, now_ms, ttl_ms)
  redis.call("ZREMRANGEBYSCORE", index, "-inf", now_ms - ttl_ms)
end
