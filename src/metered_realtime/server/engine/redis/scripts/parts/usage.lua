-- KEYS: connections by node, use. ARGV: expiry in ms, period (its start), expiry of the use
-- Counts begin again with each period; that of an earlier one is gone.

-- Return the connections of a node, and the name under which it has told them.
local function connections_of(node)
  local found = redis.call('HGET', KEYS[1], node)
  if not found then
    return 0, ''
  end
  local count, name = found:match('^(%d+) (.*)$')
  return tonumber(count), name
end

local function set_connections(node, count, name)
  if count > 0 then
    redis.call('HSET', KEYS[1], node, count .. ' ' .. name)
  else
    redis.call('HDEL', KEYS[1], node)
  end
end

local function total()
  local sum = 0
  for _, found in ipairs(redis.call('HVALS', KEYS[1])) do
    sum = sum + tonumber(found:match('^%d+'))
  end
  return sum
end

local function turn(period)
  local found = redis.call('HMGET', KEYS[2], 'period', 'messages')
  if found[1] and tonumber(found[1]) >= period then
    return tonumber(found[1]) == period and tonumber(found[2])
  end
  if found[1] and tonumber(found[1]) == 0 then
    redis.call('HSET', KEYS[2], 'period', period, 'messages', 0)
  else
    redis.call('HSET', KEYS[2], 'period', period, 'messages', 0, 'peak', total())
  end
  return 0
end

local function note_peak(connections)
  local found = redis.call('HMGET', KEYS[2], 'period', 'peak')
  if not found[1] then
    redis.call('HSET', KEYS[2], 'period', 0, 'messages', 0, 'peak', connections)
  elseif connections > tonumber(found[2] or 0) then
    redis.call('HSET', KEYS[2], 'peak', connections)
  end
end

local function keep()
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
