-- Says whether a trajectory's last answer was right, or takes that back.
-- KEYS, both of one slot: trajectory hash, index of those with a label.
-- ARGV: 1 session id, 2 label or "".
-- Returns {"OK"}, {"GONE"} if there is no such trajectory, {"STATE", state} if its last answer is not finished.
-- The label is kept with the answer's length: a router of before labels drops none when it claims the next answer.
-- As one step: no answer can begin between the look at the state and the write.
local header = redis.call("HMGET", KEYS[1], "state", "updated", "length")
if not header[1] then
  return {"GONE"}
end
if header[1] ~= "finished" then
  return {"STATE", header[1]}
end
if ARGV[2] == "" then
  redis.call("HDEL", KEYS[1], "label", "label_length")
  redis.call("ZREM", KEYS[2], ARGV[1])
else
  redis.call("HSET", KEYS[1], "label", ARGV[2], "label_length", header[3])
  redis.call("ZADD", KEYS[2], header[2], ARGV[1])
  -- It lasts as long as the last one that it names.
  local left = redis.call("PTTL", KEYS[1])
  if redis.call("PTTL", KEYS[2]) < left then
    redis.call("PEXPIRE", KEYS[2], left)
  end
end
return {"OK"}
