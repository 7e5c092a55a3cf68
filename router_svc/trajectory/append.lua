-- Appends chunks to trajectories that this router owns, or only changes their states: many sessions in one call, each
-- as if it were alone. Follows entries.lua.
-- KEYS: of each session, which may be of several tenants: trajectory hash, chunk stream, its index. In a cluster all are
--       of one slot.
-- ARGV: 1 now ms, 2 ttl ms, then of each session: session id, router id, epoch, expected length, new length, state,
--       finish reason or "", usage, number of arguments that its entries take, entries.
-- Returns of each session {"OK"}, {"CANCELLED"} if that was done, too, and somebody wants its answer to end, {"LOST", epoch}
-- if another owns it, {"GONE"} if it was deleted, {"ERROR", message} if Redis refused, {"LENGTH", length} else; "OK" if all
-- are.
local function append(trajectory, chunks, index, at)
  local id, owner, epoch, expected, length = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local header = redis.call("HMGET", trajectory, "epoch", "length", "owner", "cancelled")
  -- Epochs begin at 1 again after a deletion: one of another owner that is no later is another trajectory.
  if not header[1] or (header[3] ~= owner and tonumber(header[1]) <= tonumber(epoch)) then
    return {"GONE"}
  end
  if header[1] ~= epoch then
    return {"LOST", header[1]}
  end
  -- The reply to an append may be lost, then it comes again. Only this epoch writes, one append at a time, so a length
  -- that is already the new one means that it was done.
  if header[2] == expected then
    add_entries(chunks, at + 9, at + 8 + ARGV[at + 8])
  elseif header[2] ~= length then
    return {"LENGTH", header[2]}
  end
  redis.call("HSET", trajectory, "length", length, "state", ARGV[at + 5], "finish", ARGV[at + 6], "usage", ARGV[at + 7],
    "updated", ARGV[1])
  touch(trajectory, chunks, index, id, ARGV[1], ARGV[2])
  return {header[4] == epoch and "CANCELLED" or "OK"}
end

local replies, all_ok, at = {}, true, 3
for key = 1, #KEYS, 3 do
  local done, reply = pcall(append, KEYS[key], KEYS[key + 1], KEYS[key + 2], at)
  if not done then
    reply = {"ERROR", type(reply) == "table" and reply.err or tostring(reply)}
  end
  all_ok = all_ok and reply[1] == "OK"
  replies[#replies + 1] = reply
  at = at + 9 + ARGV[at + 8]
end
if all_ok then
  return "OK"
end
return replies
