-- uses: usage
-- ARGV: node, its number of connections, their maximum over all nodes (-1: none), then the nodes of replaced ones
local node, count, limit = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local before = tonumber(redis.call('HGET', KEYS[1], node) or 0)
for at = 7, #ARGV do
  if ARGV[at] ~= node and redis.call('HINCRBY', KEYS[1], ARGV[at], -1) <= 0 then
    redis.call('HDEL', KEYS[1], ARGV[at])
  end
end
local connections = total() - before + count
if limit >= 0 and connections > limit then
  return 0
end
if count > 0 then
  redis.call('HSET', KEYS[1], node, count)
else
  redis.call('HDEL', KEYS[1], node)
end
note_peak(connections)
keep()
return 1
