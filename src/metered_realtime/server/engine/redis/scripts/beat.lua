-- KEYS: nodes that are alive, by the time until which they are. ARGV: node, ms, whether it is new, expiry of the key
-- Returns 0 if a node that is not new has been swept meanwhile, or everything is lost.
local time = redis.call('TIME')
if ARGV[3] == '0' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
