-- What the scripts of quotas share; put before each of them.
-- Time is Redis' own, in Unix ms, so that it is the same for all routers, or what a test gives for it.

local function time_ms(given)
  if given ~= "" then
    return tonumber(given)
  end
  local time = redis.call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Tokens are counted in buckets of a 60th of the window. A bucket counts until its last moment is a whole window ago, so
-- that no window of any beginning has more than was allowed; for that some count a 60th too long.
local function bucket_ms(window)
  return math.max(1, math.floor(window / 60))
end

local function counts_until(bucket, window)
  return (bucket + 1) * bucket_ms(window) + window
end

-- The buckets of a kind ("t" tokens, "l" those of the LLM) that still count, oldest first, as {bucket, number}; and
-- their sum.
local function counted(hash, kind, now, window)
  local found, sum = {}, 0
  local fields = redis.call("HGETALL", hash)
  for i = 1, #fields, 2 do
    local bucket = tonumber(string.sub(fields[i], 2))
    if string.sub(fields[i], 1, 1) == kind and counts_until(bucket, window) > now then
      found[#found + 1] = {bucket, tonumber(fields[i + 1])}
      sum = sum + tonumber(fields[i + 1])
    end
  end
  table.sort(found, function(left, right) return left[1] < right[1] end)
  return found, sum
end
