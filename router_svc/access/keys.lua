-- Changes keys if they still are what the change was made from, so that two who change them at once lose nothing.
-- KEYS: 1 hash of keys as JSON by id; its field "version" is another after every change.
-- ARGV: 1 the version that was read ("": there was none), 2 the version that will be, then pairs of an id and its key as
-- JSON ("": the key is forgotten).
-- Returns the version that there is afterwards: the second if it was done.
local keys, read, next_version = KEYS[1], ARGV[1], ARGV[2]
local version = redis.call("HGET", keys, "version") or ""
if version ~= read then
  return version
end
for place = 3, #ARGV, 2 do
  if ARGV[place + 1] == "" then
    redis.call("HDEL", keys, ARGV[place])
  else
    redis.call("HSET", keys, ARGV[place], ARGV[place + 1])
  end
end
redis.call("HSET", keys, "version", next_version)
return next_version
