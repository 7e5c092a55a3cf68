-- Which heads the store keeps, and which version a name stands for. All of it is one script, so that each question and
-- each change sees and leaves one consistent state, however many routers come at once.
-- KEYS: 1 index: sorted set of NAME@VERSION by the ms at which they were last put.
-- ARGV: 1 what to do, 2 prefix of the keys below, 3 name, 4 version; for "put" more, see there.
--   PREFIX .. NAME              hash: `active`, the version that the name stands for, and `before`, the one before it
--   PREFIX .. NAME@VERSION      hash: data, facts, description; it may expire
local index, what, prefix, name, version = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function is_kept(full_name)
  return redis.call("EXISTS", prefix .. full_name) == 1
end

-- A version that has expired is as one that was never put: the name stands for the one before it.
local function in_service(of)
  local kept = {}
  for _, known in ipairs(redis.call("HMGET", prefix .. of, "active", "before")) do
    if known and known ~= "" and is_kept(of .. "@" .. known) then
      kept[#kept + 1] = known
    end
  end
  return kept[1] or "", kept[2] or ""
end

-- Once more the version in service is no change, or a call that comes twice would lose the one before.
local function set_in_service(active, before, wanted)
  if wanted ~= "" and wanted ~= active then
    active, before = wanted, active
  end
  redis.call("HSET", prefix .. name, "active", active, "before", before)
end

-- What has expired leaves the index, and a name that has nothing left goes with it. Until then readers skip them.
local function tidy()
  local gone, left = {}, {}
  for _, full_name in ipairs(redis.call("ZRANGE", index, 0, -1)) do
    local of = full_name:match("^(.*)@")
    if is_kept(full_name) then
      left[of] = true
    else
      gone[of] = true
      redis.call("ZREM", index, full_name)
    end
  end
  for of in pairs(gone) do
    if not left[of] then
      redis.call("DEL", prefix .. of)
    end
  end
end

local actions = {}

-- Returns {version asked for, active, before}; the first is the active one if none is named. "" is none.
function actions.find()
  local active, before = in_service(name)
  local found = version == "" and active or (is_kept(name .. "@" .. version) and version) or ""
  return {found, active, before}
end

-- Returns {name, version, 1 if its name stands for it, facts, description, ms at which it was put, ms until it expires (-1:
-- never)} of each, the one put last first.
function actions.list()
  local found = {}
  local known = redis.call("ZREVRANGE", index, 0, -1, "WITHSCORES")
  for place = 1, #known, 2 do
    local full_name = known[place]
    local told = redis.call("HMGET", prefix .. full_name, "facts", "description")
    if told[1] then
      local of, its = full_name:match("^(.*)@(.*)$")
      local active, left = in_service(of), redis.call("PTTL", prefix .. full_name)
      found[#found + 1] = {of, its, its == active and 1 or 0, told[1], told[2], known[place + 1], left}
    end
  end
  return found
end

-- ARGV: 5 data, 6 facts, 7 description, 8 now ms, 9 ttl ms (0: it stays), 10 whether to put it into service.
function actions.put()
  local active, before = in_service(name) -- before it is there: one that had expired is not in service by being put again
  local full_name = name .. "@" .. version
  redis.call("HSET", prefix .. full_name, "data", ARGV[5], "facts", ARGV[6], "description", ARGV[7])
  if ARGV[9] == "0" then
    redis.call("PERSIST", prefix .. full_name)
  else
    redis.call("PEXPIRE", prefix .. full_name, ARGV[9])
  end
  redis.call("ZADD", index, ARGV[8], full_name)
  set_in_service(active, before, ARGV[10] == "1" and version or "")
  tidy()
  return "OK"
end

function actions.activate()
  if not is_kept(name .. "@" .. version) then
    return "UNKNOWN"
  end
  local active, before = in_service(name)
  set_in_service(active, before, version)
  return "OK"
end

-- Forgets one version, which must not be in service, or without one the name and all its versions. Of a name that has
-- none left nothing stays.
function actions.delete()
  local active, before = in_service(name)
  if version ~= "" and version == active then
    return "ACTIVE"
  end
  local forgotten, is_left = 0, false
  for _, full_name in ipairs(redis.call("ZRANGE", index, 0, -1)) do
    local of, its = full_name:match("^(.*)@(.*)$")
    if of == name and (version == "" or version == its) then
      forgotten = forgotten + redis.call("DEL", prefix .. full_name)
      redis.call("ZREM", index, full_name)
    elseif of == name then
      is_left = is_left or is_kept(full_name)
    end
  end
  if not is_left then
    redis.call("DEL", prefix .. name)
  elseif forgotten > 0 then
    set_in_service(active, version == before and "" or before, "")
  end
  return forgotten > 0 and "OK" or "UNKNOWN"
end

return actions[what]()
