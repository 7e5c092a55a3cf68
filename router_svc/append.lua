-- Appends chunks to a trajectory that this router owns, or only changes its state. Follows entries.lua.
-- KEYS: trajectory hash, chunk stream, index.
-- ARGV: 1 epoch, 2 expected length, 3 new length, 4 state, 5 finish reason or "", 6 usage, 7 now ms, 8 ttl ms,
--       9 session id, 10 router id, 11... entries.
-- Returns {"OK"}, {"LOST", epoch} if another owns it, {"GONE"} if it was deleted, {"LENGTH", length} else.
local header = redis.call("HMGET", KEYS[1], "epoch", "length", "owner")
-- Epochs begin at 1 again after a deletion: one of another owner that is no later is another trajectory.
if not header[1] or (header[3] ~= ARGV[10] and tonumber(header[1]) <= tonumber(ARGV[1])) then
  return {"GONE"}
end
if header[1] ~= ARGV[1] then
  return {"LOST", header[1]}
end
-- The reply to an append may be lost, then it comes again. Only this epoch writes, one append at a time, so a length
-- that is already the new one means that it was done.
if header[2] == ARGV[2] then
  add_entries(KEYS[2], 11)
elseif header[2] ~= ARGV[3] then
  return {"LENGTH", header[2]}
end
redis.call("HSET", KEYS[1], "length", ARGV[3], "state", ARGV[4], "finish", ARGV[5], "usage", ARGV[6], "updated", ARGV[7])
touch(ARGV[9], ARGV[7], ARGV[8])
return {"OK"}
