-- Who is there: one fleet's workers of one role. Time is Redis' own, so that it is the same for all.
-- KEYS: 1 hash of workers by id, each "BEAT_MS ADDRESS ANNOUNCEMENT"; 2 string: the fingerprint that living ones have.
-- ARGV: 1 what to do, 2 ms after which a silent worker is gone; then what the action says.
local workers, fingerprint, what, ttl_ms = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function parts_of(value)
  return value:match("^(%d+) (%S+) (.*)$")
end

local actions = {}

-- ARGV: 3 id, 4 address, 5 fingerprint, 6 announcement. Returns {"OK"}, {"MIXED", the fingerprint of the others} or
-- {"TAKEN", the address of who has this id}. One look at a string, however many there are.
function actions.beat()
  local id, address, own = ARGV[3], ARGV[4], ARGV[5]
  local others = redis.call("GET", fingerprint)
  if others and others ~= own then
    return {"MIXED", others}
  end
  local known = redis.call("HGET", workers, id)
  if known then
    local beat, from = parts_of(known)
    if from ~= address and tonumber(beat) + ttl_ms > now then
      return {"TAKEN", from}
    end
  end
  redis.call("SET", fingerprint, own, "PX", ttl_ms)
  redis.call("HSET", workers, id, string.format("%d %s %s", now, address, ARGV[6]))
  return {"OK"}
end

-- ARGV: 3 id, 4 address: forgotten at once, unless another has the id by now.
function actions.withdraw()
  local known = redis.call("HGET", workers, ARGV[3])
  if known then
    local _, from = parts_of(known)
    if from == ARGV[4] then
      redis.call("HDEL", workers, ARGV[3])
    end
  end
  if redis.call("HLEN", workers) == 0 then
    redis.call("DEL", fingerprint) -- whoever comes next may have another model, without waiting
  end
  return {"OK"}
end

-- Returns the announcements of those that live, and forgets the others.
function actions.read()
  local living = {}
  local all = redis.call("HGETALL", workers)
  for place = 1, #all, 2 do
    local beat, _, announcement = parts_of(all[place + 1])
    if tonumber(beat) + ttl_ms > now then
      living[#living + 1] = announcement
    else
      redis.call("HDEL", workers, all[place])
    end
  end
  return living
end

return actions[what]()
