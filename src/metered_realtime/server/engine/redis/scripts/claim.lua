-- KEYS: nodes that are alive, nodes that are being swept. ARGV: ms of a claim, expiry of the key, nodes that are known to be gone
-- Returns nodes that the caller has to sweep: it holds the lock for each until the claim ends.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local nodes = {}
for at = 3, #ARGV do
  nodes[#nodes + 1] = ARGV[at]
end
if #nodes == 0 then
  for _, key in ipairs(KEYS) do
    for _, node in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 16)) do
      nodes[#nodes + 1] = node
    end
  end
end
for _, node in ipairs(nodes) do
  redis.call('ZREM', KEYS[1], node)
  redis.call('ZADD', KEYS[2], now + ARGV[1], node)
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return nodes
