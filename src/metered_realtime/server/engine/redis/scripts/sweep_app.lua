-- uses: usage
-- Ends the count of a node that is gone. ARGV: node, its name
local _, name = connections_of(ARGV[4])
if name == ARGV[5] then
  redis.call('HDEL', KEYS[1], ARGV[4])
end
