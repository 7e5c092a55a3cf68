-- Admits a request of a key within all of its limits, or says which one it must wait for longest.
-- Follows window.lua.
-- KEYS, all of one slot: requests by when they were admitted, slots by when their lease ends, tokens by bucket, number of
--       changes of slots.
-- ARGV: 1 now ms or "", 2 window ms, 3 lease ms, 4 request id, 5 session id or "" for what leaves no trajectory, then the
--       limits, 0 for none: 6 requests, 7 tokens, 8 tokens of the LLM, 9 answers at once, 10 trajectories; of these more,
--       as the caller counted them (see `kept.py`): 11 number of changes before, "" if it is not asked for, 12 number of
--       trajectories that the tenant has, 13 ms until one of those is forgotten that are too many, 14... the sessions
--       among those of the slots, and the one asked for, that are among these trajectories.
-- Returns {"OK"}, {quota, limit, used, ms until it passes}, or {"AGAIN"}: the trajectories are to be counted again.
local requests, slots, tokens, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now, window, lease = time_ms(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local request, session = ARGV[4], ARGV[5]
local max_requests, max_tokens, max_llm_tokens = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local max_running, max_kept = tonumber(ARGV[9]), tonumber(ARGV[10])
local slot = request .. session

redis.call("ZREMRANGEBYSCORE", requests, "-inf", now - window)
redis.call("ZREMRANGEBYSCORE", slots, "-inf", now)
-- The reply to an admission may be lost, then it comes again.
if redis.call("ZSCORE", requests, request) or redis.call("ZSCORE", slots, slot) then
  return {"OK"}
end

local longest
local function refuse(quota, limit, used, wait)
  if not longest or wait > longest[4] then
    longest = {quota, limit, used, wait}
  end
end

-- When so many of a sorted set have gone, by the score of the last of them.
local function score_of(set, num, from)
  return tonumber(redis.call("ZRANGEBYSCORE", set, from, "+inf", "WITHSCORES", "LIMIT", num - 1, 1)[2])
end

local function session_of(member)
  return string.sub(member, #request + 1)
end

local function check_tokens(quota, kind, limit)
  local buckets, sum = counted(tokens, kind, now, window)
  local left, at = sum, 0
  while left >= limit do
    at = at + 1
    left = left - buckets[at][2]
  end
  if at > 0 then
    refuse(quota, limit, sum, counts_until(buckets[at][1], window) - now)
  end
end

if max_requests > 0 then
  local num = redis.call("ZCARD", requests)
  if num >= max_requests then
    refuse("requests_per_minute", max_requests, num, score_of(requests, num - max_requests + 1, "-inf") + window - now)
  end
end
if max_tokens > 0 then
  check_tokens("tokens_per_minute", "t", max_tokens)
end
if max_llm_tokens > 0 then
  check_tokens("llm_tokens_per_minute", "l", max_llm_tokens)
end
if max_running > 0 and redis.call("ZCARD", slots) >= max_running then
  -- A session has one answer at once: whoever goes on with what a dead router wrote has its slot, not one more.
  local num = 0
  for _, member in ipairs(redis.call("ZRANGE", slots, 0, -1)) do
    num = num + ((session ~= "" and session_of(member) == session) and 0 or 1)
  end
  if num >= max_running then
    refuse("max_running", max_running, num, score_of(slots, 1, "-inf") - now)
  end
end
if max_kept > 0 and session ~= "" then
  local is_kept = {}
  for place = 14, #ARGV do
    is_kept[ARGV[place]] = true
  end
  if not is_kept[session] then
    local num_kept = tonumber(ARGV[12])
    local num = num_kept
    if num + redis.call("ZCARD", slots) >= max_kept then
      for _, member in ipairs(redis.call("ZRANGE", slots, 0, -1)) do
        local id = session_of(member)
        num = num + ((id == "" or id == session or is_kept[id]) and 0 or 1)
      end
    end
    -- Trajectories lie in other slots of a cluster, and were counted a moment ago. Whoever has taken a slot since may be
    -- counted twice, and whoever has left one not at all: where that could matter it is counted again.
    local since = ARGV[11] ~= "" and (redis.call("GET", changes) or 0) - ARGV[11] or 0
    if since < 0 or (since > 0 and num + since >= max_kept) then
      return {"AGAIN"}
    end
    if num >= max_kept then
      -- Those that are about to begin may not come to it; then their slots are free.
      local wait = num_kept >= max_kept and tonumber(ARGV[13]) or score_of(slots, 1, "-inf") - now
      refuse("max_trajectories", max_kept, num, wait)
    end
  end
end
if longest then
  return longest
end

if max_requests > 0 then
  redis.call("ZADD", requests, now, request)
  redis.call("PEXPIRE", requests, window)
end
if max_running > 0 or max_kept > 0 then
  redis.call("ZADD", slots, now + lease, slot)
  redis.call("PEXPIRE", slots, lease + window)
end
if max_kept > 0 then
  redis.call("INCRBY", changes, 1)
  redis.call("PEXPIRE", changes, lease + window)
end
return {"OK"}
