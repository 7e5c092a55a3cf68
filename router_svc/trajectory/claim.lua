-- Makes this router the owner of a trajectory: a new one, the next answer of a known one, or one that lost its router.
-- Follows entries.lua.
-- KEYS, all of one slot: trajectory hash, chunk stream, its index, that of those with a label.
-- ARGV: 1 expected epoch ("0": must not exist), 2 expected length, 3 new length, 4 settings, 5 usage, 6 router id,
--       7 now ms, 8 ttl ms, 9 session id, 10 ms that its owner's lease had left, 11 expected state or "", 12 and 13 the
--       workers that hold the session, SLM's and LLM's, 14 how many such bindings there were, 15... entries.
-- Returns {"OK", epoch}, {"CHANGED"} if it is not as expected, {"OWNED", ms of its owner's lease left} if it is being
-- written by a router that lives.
local header = redis.call("HMGET", KEYS[1], "epoch", "length", "state", "owner", "settings")
if (header[1] or "0") ~= ARGV[1] or (header[2] or "0") ~= ARGV[2] or (header[3] or "") ~= ARGV[11] then
  -- The reply to a claim may be lost, then it comes again.
  if header[4] == ARGV[6] and header[2] == ARGV[3] and header[3] == "running" and header[5] == ARGV[4] then
    return {"OK", tonumber(header[1])}
  end
  return {"CHANGED"}
end
-- Running for another router: it is that router's as long as its lease exists. Whoever asks again and is told a longer
-- time than before knows that the lease was renewed. A lease lies in another slot: what is told of it was read before,
-- and is of this owner, as no other has this epoch. Should it have been renewed since, the epoch fences that owner off.
if header[3] == "running" and header[4] ~= ARGV[6] and tonumber(ARGV[10]) > 0 then
  return {"OWNED", ARGV[10]}
end
-- Another owner, or one that did not finish: whatever the last one may still send is fenced off.
local epoch = tonumber(ARGV[1])
if header[4] ~= ARGV[6] or header[3] ~= "finished" then
  epoch = epoch + 1
end
-- A stream may have outlived its hash, as each expires by itself: its chunks belong to a trajectory that is forgotten.
if not header[1] then
  redis.call("DEL", KEYS[2])
  redis.call("HSET", KEYS[1], "created", ARGV[7])
end
add_entries(KEYS[2], 15, #ARGV)
redis.call("HSET", KEYS[1], "epoch", epoch, "length", ARGV[3], "state", "running", "finish", "", "owner", ARGV[6],
  "settings", ARGV[4], "usage", ARGV[5], "updated", ARGV[7], "slm_worker", ARGV[12], "llm_worker", ARGV[13],
  "binding_epoch", ARGV[14])
-- A label is of the answer before, which was finished, and so is a wish to cancel.
redis.call("HDEL", KEYS[1], "label", "label_length", "cancelled")
redis.call("ZREM", KEYS[4], ARGV[9])
touch(KEYS[1], KEYS[2], KEYS[3], ARGV[9], ARGV[7], ARGV[8])
tidy(KEYS[3], ARGV[7], ARGV[8])
tidy(KEYS[4], ARGV[7], ARGV[8])
return {"OK", epoch}
