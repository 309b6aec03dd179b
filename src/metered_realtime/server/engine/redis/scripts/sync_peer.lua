-- uses: base log
-- ARGV: known epoch, seq and offset, bounds (3), then connection and key of each entry of the node
local epoch, _, offset = open()
epoch = renew_if_behind(epoch, offset, offset, ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]))
for at = 15, #ARGV, 2 do
  local before = redis.call('HGET', ENTRIES, ARGV[at])
  if before then
    count_node(before:match('^(.-)%z'), -1)
  end
  redis.call('HSET', ENTRIES, ARGV[at], NODE .. '\0' .. ARGV[at + 1])
  count_node(NODE, 1)
end
keep()
local replay = ARGV[9] ~= '' and missed(epoch, offset, ARGV[9], tonumber(ARGV[11]), limits_at(12)) or false
return {epoch, offset, offset, replay, {}}
