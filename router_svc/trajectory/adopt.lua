-- Moves the heads that an earlier release put to where they are now; on one server, where those lay.
-- KEYS: index of these heads, index of heads.
-- ARGV: prefix of the keys of these heads, prefix of those of heads.
-- One that was put anew since stays as it is now.
local old_index, index, old_prefix, prefix = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

local function move(name)
  if redis.call("EXISTS", old_prefix .. name) == 1 then
    if redis.call("EXISTS", prefix .. name) == 0 then
      redis.call("RENAME", old_prefix .. name, prefix .. name)
    else
      redis.call("DEL", old_prefix .. name)
    end
  end
end

local known = redis.call("ZRANGE", old_index, 0, -1, "WITHSCORES")
for place = 1, #known, 2 do
  local full_name = known[place]
  move(full_name)
  move(full_name:match("^(.*)@"))
  redis.call("ZADD", index, "NX", known[place + 1], full_name)
end
redis.call("DEL", old_index)
return #known / 2
