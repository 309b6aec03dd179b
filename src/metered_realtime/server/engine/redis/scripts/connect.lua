-- uses: base log
-- ARGV: connection, key, whether it replaces others of the key, bounds (3), position (2, or none)
local epoch, _, offset = open()
local before = redis.call('HGET', ENTRIES, ARGV[9])
if before then
  count_node(before:match('^(.-)%z'), -1)
end
redis.call('HSET', ENTRIES, ARGV[9], NODE .. '\0' .. ARGV[10])
count_node(NODE, 1)
tell_own(text('q', epoch, offset, offset, ''))
local gone = {}
if ARGV[11] == '1' then
  local all, replaced = redis.call('HGETALL', ENTRIES), {}
  for at = 1, #all, 2 do
    local node, key = all[at + 1]:match('^(.-)%z(.*)$')
    if key == ARGV[10] and all[at] ~= ARGV[9] then
      redis.call('HDEL', ENTRIES, all[at])
      count_node(node, -1)
      gone[#gone + 1] = node
      gone[#gone + 1] = all[at]
      replaced[node] = (replaced[node] or '') .. pack(all[at])
    end
  end
  for node, connections in pairs(replaced) do
    redis.call('PUBLISH', INBOX .. node, text('r', epoch, offset, offset, pack(ARGV[9]) .. connections))
  end
end
keep()
local replay = ARGV[15] and missed(epoch, offset, ARGV[15], tonumber(ARGV[16]), limits_at(12)) or false
return {gone, replay, epoch, offset, offset}
