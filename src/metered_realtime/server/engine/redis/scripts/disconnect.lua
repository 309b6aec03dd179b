-- uses: base
-- ARGV: connection
local found = redis.call('HGET', ENTRIES, ARGV[9])
if found then
  redis.call('HDEL', ENTRIES, ARGV[9])
  count_node(found:match('^(.-)%z'), -1)
end
