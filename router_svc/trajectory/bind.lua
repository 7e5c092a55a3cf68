-- Takes down which workers hold the session of a trajectory that this router owns.
-- KEYS: trajectory hash.
-- ARGV: 1 router id, 2 epoch, 3 the SLM's worker, 4 the LLM's, 5 how many bindings there were with this one.
-- Returns 1; 0 if the trajectory is another router's, was deleted, or has a later binding.
local header = redis.call("HMGET", KEYS[1], "owner", "epoch", "binding_epoch")
if header[1] ~= ARGV[1] or header[2] ~= ARGV[2] or tonumber(header[3] or 0) > tonumber(ARGV[5]) then
  return 0
end
redis.call("HSET", KEYS[1], "slm_worker", ARGV[3], "llm_worker", ARGV[4], "binding_epoch", ARGV[5])
return 1
