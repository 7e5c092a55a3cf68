-- Says that the answer being written in a trajectory is to end, or looks what has become of that.
-- Follows entries.lua.
-- KEYS, all of one slot: trajectory hash, chunk stream, its index.
-- ARGV: 1 epoch as this script returned it; "": the answer that is being written now, 2 owner whose lease is over; "": of
--       none is known that, 3 now ms, 4 ttl ms, 5 session id.
-- Returns {"GONE"} if there is no such trajectory, {"RUNNING", epoch, owner} if its owner will find the mark at its next
-- append, {"ENDED", state, length, 1 if this call ended it} if nobody writes the answer any more.
local header = redis.call("HMGET", KEYS[1], "epoch", "state", "owner", "length", "cancelled")
if not header[1] then
  return {"GONE"}
end
-- Whoever claims a trajectory takes the mark away: the answer that was meant is over, and another is nobody's to cancel.
local is_meant = ARGV[1] == "" or (ARGV[1] == header[1] and header[5] == header[1])
if header[2] ~= "running" or not is_meant then
  return {"ENDED", header[2], header[4], 0}
end
-- A lease lies in another slot of a cluster, so that who calls looks at it once it is known whose.
if header[3] ~= ARGV[2] then
  redis.call("HSET", KEYS[1], "cancelled", header[1])
  return {"RUNNING", header[1], header[3]}
end
-- Its router is gone. Should it only be slow, the epoch fences it off.
redis.call("HSET", KEYS[1], "state", "interrupted", "epoch", header[1] + 1, "updated", ARGV[3])
redis.call("HDEL", KEYS[1], "cancelled")
-- A change as others are: whoever reads the listing for what is new finds it there.
touch(KEYS[1], KEYS[2], KEYS[3], ARGV[5], ARGV[3], ARGV[4])
return {"ENDED", "interrupted", header[4], 1}
